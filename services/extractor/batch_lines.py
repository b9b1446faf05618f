"""The lines of a batch's files: what is asked, and what is answered."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Struct
from openai.types.chat import ChatCompletion

from services.extractor import costs
from services.extractor.costs import Usage
from services.extractor.findings import NothingUsable
from services.extractor.openai_batches import URL
from services.extractor.openai_provider import Asking
from services.extractor.paid_answers import Kept
from services.extractor.paid_once import kept_of
from services.extractor.underway import Asked

LOST: Final = "no_answer"  # where the endpoint does not say why
_ANSWERED: Final = 200
_LONGEST_CODE: Final = 40


class Response(Struct):
    status_code: int = 0
    body: Any = None


class Error(Struct):
    code: str | None = None


class Line(Struct):
    """One line of a file of answers, or of errors."""

    custom_id: str
    response: Response | None = None
    error: Error | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """`usage`: what is charged; None: not known. Where nothing can be kept, `code` says why."""

    kept: Kept | None
    usage: Usage | None
    code: str = ""


def line_of(number: int, request: dict[str, Any]) -> bytes:
    line = {"custom_id": str(number), "method": "POST", "url": URL, "body": request}
    return msgspec.json.encode(line) + b"\n"


def read(line: bytes) -> tuple[int, Line] | None:
    """The number of the request that is answered, and how; None for what is no such line."""
    try:
        found = msgspec.json.decode(line, type=Line)
        return int(found.custom_id), found
    except ValueError:  # msgspec's and Unicode's are ValueErrors
        return None


def heard(line: Line, asked: Asked, asking: Asking) -> Heard:
    """What the line says of the text, as by a live call."""
    response = line.response
    if line.error is None and response is not None and response.status_code == _ANSWERED:
        completion = ChatCompletion.construct(choices=_of(response.body, "choices"), usage=_of(response.body, "usage"))
        return Heard(_kept(completion, asked, asking), costs.usage_of_completion(completion))
    code = _code(line)
    return Heard(kept_of(NothingUsable("content_filter")) if code == "content_filter" else None, Usage(), code)


def _kept(completion: Any, asked: Asked, asking: Asking) -> Kept | None:
    try:
        return Kept(asking.findings_in(completion, asked.text, asked.shown))
    except NothingUsable as answer:
        return kept_of(answer)


def _of(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _code(line: Line) -> str:
    """A word of the endpoint's, never a sentence: that may quote a review."""
    said: Any = line.error.code if line.error is not None else None
    if line.response is not None and not said:
        said = _of(_of(line.response.body, "error"), "code") or f"status_{line.response.status_code}"
    is_word = isinstance(said, str) and said.isidentifier() and len(said) <= _LONGEST_CODE
    return said if is_word else LOST
