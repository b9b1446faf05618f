"""From settings to who finds opinions and who embeds. Raises WrongSetting with one line for the operator."""

from openai import AsyncOpenAI

from services.extractor.embeddings import Embeddings, LocalEmbeddings
from services.extractor.findings import Provider
from services.extractor.lexicon import LexiconUnavailable
from services.extractor.offline import ModelUnavailable, OfflineProvider, Rules
from services.extractor.openai_api import OpenAIEmbeddings
from services.extractor.openai_provider import OpenAIProvider
from services.extractor.settings import ExtractorSettings, OpenAISettings
from services.extractor.spans.model import Spans, WeightsUnavailable
from services.extractor.worker import Worker
from shared.embedding import Embedder, EmbeddingUnavailable
from shared.service import WrongSetting
from shared.space import Space


def provider_of(settings: ExtractorSettings, space: Space, worker: Worker) -> Provider:
    if settings.provider == "openai":
        return OpenAIProvider(_client(settings.openai), settings.openai, space)
    try:
        if settings.provider == "spans":
            spans = Spans(settings.local.embedding_path, max_chars=settings.max_chars)
            return OfflineProvider("spans/minilm", spans, worker)
        rules = Rules(settings.local.spacy_model, settings.max_chars, settings.max_sentences)
        return OfflineProvider("rules/en_core_web_sm+vader", rules, worker)
    except (ModelUnavailable, LexiconUnavailable, EmbeddingUnavailable, WeightsUnavailable) as error:
        raise WrongSetting(f"FINESTREAM_EXTRACTOR_PROVIDER={settings.provider}: {error}") from None


def embeddings_of(settings: ExtractorSettings, space: Space, worker: Worker) -> Embeddings:
    """Checked to be what the space was made with: vectors of two models cannot be compared."""
    if settings.embeddings == "openai":
        embeddings: Embeddings = OpenAIEmbeddings(_client(settings.openai), settings.openai, space.embedding_dim)
        if embeddings.name != space.embedding:
            raise WrongSetting(
                f"FINESTREAM_OPENAI_EMBEDDING_MODEL: space {space.name} is of {space.embedding}, not of"
                f" {embeddings.name}; make a space for it and set FINESTREAM_SPACE_NAME"
            )
        return embeddings
    try:
        embeddings = LocalEmbeddings(Embedder(settings.local.embedding_path), worker, space.embedding)
    except EmbeddingUnavailable as error:
        raise WrongSetting(f"FINESTREAM_EMBEDDING_PATH: {error}") from None
    if embeddings.dim != space.embedding_dim:
        raise WrongSetting(
            f"FINESTREAM_EMBEDDING_PATH: the model has {embeddings.dim} dimensions, space {space.name} needs"
            f" {space.embedding_dim}"
        )
    return embeddings


def _client(settings: OpenAISettings) -> AsyncOpenAI:
    key = settings.api_key.get_secret_value()
    if not key and "api.openai.com" in settings.base_url:
        raise WrongSetting("FINESTREAM_OPENAI_API_KEY is required for https://api.openai.com")
    return AsyncOpenAI(
        base_url=settings.base_url,
        api_key=key or "none",  # a server of one's own asks for none, but the client does
        timeout=settings.timeout_seconds,
        max_retries=settings.max_retries,
    )
