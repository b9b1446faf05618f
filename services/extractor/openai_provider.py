"""The provider with an LLM: any OpenAI-compatible chat endpoint with structured output.

The review is data: it goes into a JSON-encoded user message, the instructions are fixed (prompt.txt). What
comes back is not trusted either: the attribute must be of the set and the quote must be in the text, both
checked by Extraction. Of words only those have a place that the text has.
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from services.extractor.attributes import head_of
from services.extractor.findings import Answered, Finding, Found, NothingUsable
from services.extractor.openai_endpoint import Endpoint
from services.extractor.quotes import locate, locate_near
from services.extractor.redaction import Redaction
from services.extractor.settings import OpenAISettings
from shared.errors import Unavailable
from shared.events import MAX_QUOTE_CHARS, content_hash
from shared.graph.state import MAX_PAIRS_PER_REVIEW
from shared.space import Space

PROMPT: Final = Path(__file__).with_name("prompt.txt")
TERMS_IN_PROMPT: Final = 8  # of an attribute
_POLARITY: Final = {"negative": -1, "neutral": 0, "positive": 1}


class AnsweredPair(Struct):
    aspect: str
    attribute: str
    opinion: str
    polarity: Literal["negative", "neutral", "positive"]
    quote: str


class Answer(Struct):
    """What the endpoint must answer; the schema that it gets is made of this and the space."""

    pairs: list[AnsweredPair]


class Asking:
    """What is sent about a text, and how the answer is read; `setup` names all that is sent but the text."""

    def __init__(self, settings: OpenAISettings, space: Space) -> None:
        version, self._prompt = prompt_of(space)
        self.name = f"openai/{settings.model}+prompt-{version}"
        self._other = space.attribute_names[-1]
        self._settings = settings
        self._always: dict[str, Any] = {
            "model": settings.model,
            "max_completion_tokens": settings.max_output_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "opinions", "strict": True, "schema": schema_of(space)},
            },
        }
        if settings.temperature >= 0:
            self._always["temperature"] = settings.temperature
        told = [self._always, self._prompt, settings.max_chars, sorted(settings.redact)]
        self.setup = content_hash(json.dumps(told, sort_keys=True))

    async def shown(self, texts: Sequence[str], redaction: Redaction) -> list[str]:
        """What is asked about of each text, as it may leave."""
        return await redaction([self.read(text) for text in texts])

    def read(self, text: str) -> str:
        """As much of the text as is asked about."""
        return text[: self._settings.max_chars]

    def request(self, shown: str) -> dict[str, Any]:
        messages = [
            {"role": "system", "content": self._prompt},
            {"role": "user", "content": json.dumps({"review": shown})},
        ]
        return {**self._always, "messages": messages}

    def findings_in(self, completion: Any, text: str, shown: str) -> list[Finding]:
        """What the answer says of the text, of which it was `shown` so much. Raises NothingUsable."""
        return [_finding(pair, text, shown, self._other) for pair in _parsed(_content_of(completion)).pairs]


class OpenAIProvider:
    def __init__(self, endpoint: Endpoint, asking: Asking, redaction: Redaction) -> None:
        self.name = asking.name
        self._asking = asking
        self._endpoint = endpoint
        self._redaction = redaction

    async def find(self, texts: Sequence[str]) -> list[Answered]:
        shown = await self._asking.shown(texts, self._redaction)
        return await asyncio.gather(*map(self._answered, texts, shown))

    async def _answered(self, text: str, shown: str) -> Answered:
        try:
            return await self._find(text, shown)
        except (NothingUsable, Unavailable) as answer:
            return answer

    async def close(self) -> None:
        await self._endpoint.close()

    async def _find(self, text: str, shown: str) -> Found:
        """Raises NothingUsable, Unavailable."""
        completion = await self._endpoint.complete(self._asking.request(shown))
        return Found(self._asking.findings_in(completion, text, shown), self.name)


def prompt_of(space: Space) -> tuple[str, str]:
    """The version and the text of the instructions for this space."""
    version, _, prompt = PROMPT.read_text(encoding="utf-8").partition("\n")
    terms = [
        f"- {attribute.name}: {', '.join(attribute.terms[:TERMS_IN_PROMPT])}"
        for attribute in space.attributes
        if attribute.terms
    ]
    filled = prompt.format(
        attributes=", ".join(f'"{name}"' for name in space.attribute_names), other=space.attribute_names[-1],
        terms="\n".join(terms), max_pairs=MAX_PAIRS_PER_REVIEW, max_quote=MAX_QUOTE_CHARS,
    )  # fmt: skip
    return version.removeprefix("version").strip(), filled


def schema_of(space: Space) -> dict[str, Any]:
    """JSON Schema in the strict subset: every field required, nothing else allowed."""
    pair = {
        "aspect": {"type": "string"},
        "attribute": {"type": "string", "enum": list(space.attribute_names)},
        "opinion": {"type": "string"},
        "polarity": {"type": "string", "enum": list(_POLARITY)},
        "quote": {"type": "string"},
    }
    return _closed({"pairs": {"type": "array", "items": _closed(pair)}})


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _content_of(completion: Any) -> str:
    """The answer's text. `completion` is what the client made of any JSON, so no field of it is sure to be there."""
    choices = getattr(completion, "choices", None)
    choice: Any = choices[0] if isinstance(choices, list) and choices else None
    message: Any = getattr(choice, "message", None)
    if message is None:
        raise NothingUsable("empty_answer")
    if choice.finish_reason == "content_filter":
        raise NothingUsable("content_filter")
    if getattr(message, "refusal", None):
        raise NothingUsable("refusal")
    if choice.finish_reason == "length":
        raise NothingUsable("truncated")
    content = getattr(message, "content", None)
    if not isinstance(content, str) or not content.strip():
        raise NothingUsable("empty_answer")
    return content


def _parsed(content: str) -> Answer:
    try:
        return msgspec.json.decode(content, type=Answer)
    except msgspec.ValidationError as error:
        raise NothingUsable("wrong_schema") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise NothingUsable("invalid_json") from error


def _finding(pair: AnsweredPair, text: str, shown: str, other: str) -> Finding:
    """What is quoted of `shown` lies at the same place of the text: what was hidden there is as long as it was."""
    at = locate(shown, pair.quote)
    free = pair.attribute == other and head_of(pair.aspect) != ""
    return Finding(
        aspect=pair.aspect,
        attribute="" if free else pair.attribute,
        opinion=pair.opinion,
        polarity=_POLARITY[pair.polarity],
        quote=text[slice(*at)] if at else pair.quote,
        near=at[0] if at else -1,
        aspect_at=at and locate_near(text, pair.aspect, at),
        opinion_at=at and locate_near(text, pair.opinion, at),
    )
