"""Settings of the extractor: FINESTREAM_EXTRACTOR_*, FINESTREAM_OPENAI_*, and where the local models lie."""

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.extractor.redaction import Kind
from shared.settings import Listed, ServiceSettings, SpaceSettings

Offline = Literal["rules", "spans"]  # who finds opinions without a network
PROVIDERS: Final = ("rules", "spans", "openai")


class LocalModelSettings(BaseSettings):
    """The models that work without a network."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_", extra="ignore")

    embedding_path: str = Field(
        "", description="folder with config.json, model.safetensors, tokenizer.json; empty: the bundled MiniLM"
    )
    spacy_model: str = Field("", description="package or folder of a spaCy pipeline; empty: the bundled en_core_web_sm")


class Price(BaseModel):
    """USD for a million tokens; `cached`: of a prompt that the endpoint has seen before, as `input` where not set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0)
    output: float = Field(0.0, ge=0)
    cached: float | None = Field(None, ge=0)


PRICES: Final = {
    "gpt-4o-mini": Price(input=0.15, output=0.6, cached=0.075),
    "text-embedding-3-small": Price(input=0.02),
}


def _with_defaults(given: Any) -> Any:
    """The given prices win over ours; JSON where they come from a variable."""
    given = json.loads(given or "{}") if isinstance(given, str) else given
    return {**PRICES, **given} if isinstance(given, dict) else given


class OpenAISettings(BaseSettings):
    """Any endpoint that speaks OpenAI's protocol, and what may be spent on one review."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_OPENAI_", extra="ignore")

    daily_budget_usd: float = Field(
        0.0, ge=0, description="that each replica may spend in a day (UTC), by FINESTREAM_OPENAI_PRICES; 0: no limit"
    )
    over_budget: Literal["wait", "rules", "spans"] = Field(
        "wait",
        description="when it is spent: wait for the next day, or let a local provider find the opinions",
    )
    kept_answers: int = Field(
        200_000, ge=0, description="kept on disk so that no text is paid for twice, the newest; 0: none"
    )
    kept_days: float = Field(30.0, gt=0, description="that an answer is kept, which quotes its review")
    batch_price: float = Field(
        0.5, ge=0, le=1, description="of an answer by `finestream prepay`, as a share of FINESTREAM_OPENAI_PRICES"
    )
    batch_requests: int = Field(
        50_000,
        ge=1,
        le=50_000,
        description="of one batch at most; halved where the account may not have so many waiting",
    )
    base_url: str = Field("https://api.openai.com/v1", min_length=1, description="any OpenAI-compatible endpoint")
    api_key: SecretStr = SecretStr("")
    model: str = Field("gpt-4o-mini", min_length=1, description="must support structured output (json_schema)")
    embedding_model: str = Field("text-embedding-3-small", min_length=1)
    temperature: float = Field(0.0, le=2.0, description="below 0: not sent, for models that refuse it")
    timeout_seconds: float = Field(30.0, gt=0, description="of one try of a request")
    max_retries: int = Field(2, ge=0, le=10, description="of one request, with back-off, before the stream waits")
    total_seconds: float = Field(
        120.0, gt=0, description="of one request from the moment it is asked for: no try begins later, the stream waits"
    )
    concurrency: int = Field(16, ge=1, le=1024, description="requests in flight at most; each 429 halves them")
    max_output_tokens: int = Field(700, ge=64, le=16_384)
    max_chars: int = Field(8000, ge=100, description="of a review that are sent")
    prices: Annotated[dict[str, Price], NoDecode, BeforeValidator(_with_defaults)] = Field(
        PRICES,
        description="USD for a million tokens by model, as JSON; adds to these, which your endpoint may have changed",
    )
    redact: Annotated[list[Kind], NoDecode, Listed] = Field(
        ["addresses", "numbers"],
        description="hidden in what is sent: addresses (e-mail), numbers (phone), names (of people); empty: nothing",
    )


class ExtractorSettings(ServiceSettings):
    """Who finds the opinions, how much of a text is read, and how much is remembered."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_EXTRACTOR_", extra="ignore")

    port: int = Field(50052, ge=0, le=65535, description="gRPC port; 0: any free one")
    metrics_port: int = Field(9102, ge=0, le=65535, description="Prometheus metrics, /livez and /readyz; 0: any free")
    state: Path = Field(Path(".run/extractor"), description="folder of what an LLM was paid today, and of its answers")
    provider: Literal["rules", "spans", "openai"] = Field(
        "spans", description="who finds opinions: spaCy's parse and rules, the small span model, or an LLM's endpoint"
    )
    embeddings: Literal["local", "openai"] = Field("local", description="who embeds phrases and texts")
    version: int = Field(1, ge=1, description="raise it when better pairs shall replace those already extracted")
    worker: str = Field("0", min_length=1, max_length=64, description="this replica's slot in its consumer groups")
    batch_size: int = Field(32, ge=1, le=1000, description="reviews, or items, that are worked on together")
    torch_threads: int = Field(1, ge=1, le=256, description="of the one worker thread that spaCy and torch share")
    max_chars: int = Field(2000, ge=100, description="of a review that rules and spans read")
    english_only: bool = Field(
        True, description="rules and spans, which read English, find nothing in what is surely another language"
    )
    max_sentences: int = Field(4, ge=1, description="of a review that rules parse: the most telling")
    review_chars: int = Field(200, ge=1, description="of a review's text that are embedded, behind its title")
    review_tokens: int = Field(24, ge=8, le=64, description="of title and text that are embedded")
    item_chars: int = Field(1000, ge=1, description="of an item's text that are embedded")
    item_tokens: int = Field(128, ge=8, le=128, description="of an item's text that are embedded")
    attribute_similarity: float = Field(0.6, ge=0, le=1, description="cosine from which an aspect is an attribute")
    cached_texts: int = Field(20_000, ge=0, description="extractions and text embeddings kept in memory, of each")
    cached_phrases: int = Field(100_000, ge=0, description="phrase vectors and aspects kept in memory, of each")
    local: LocalModelSettings = Field(default_factory=LocalModelSettings)
    openai: OpenAISettings = Field(default_factory=OpenAISettings)
    space: SpaceSettings = Field(default_factory=SpaceSettings)
