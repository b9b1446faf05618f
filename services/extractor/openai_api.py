"""What goes wrong with an OpenAI-compatible endpoint: whether another try may help, and when."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, Literal

import aiohttp
import openai

from services.extractor.findings import NothingUsable

Reason = Literal[
    "rate_limited", "insufficient_quota", "timeout", "connection", "server_error", "misconfigured"
]  # fmt: skip

# What the endpoint refuses because of this request, and will refuse again.
_REJECTED: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY)
# A wrong key or model: right once the operator has set it right, but not in a moment.
_MISCONFIGURED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
_NO_MONEY: Final = "insufficient_quota"  # the code of a 429 that does not pass by waiting

# A model behind a gateway that gave up waiting may have answered it all the same.
_MAY_HAVE_WORKED: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a try got no answer. What does not pass soon may still succeed later: the stream waits, nothing is lost."""

    reason: Reason
    passes_soon: bool = True
    asked_seconds: float | None = None  # that the endpoint wants us to wait


def trouble_of(error: openai.OpenAIError | TimeoutError | ValueError) -> Trouble:
    """Raises NothingUsable where this request will never succeed."""
    if isinstance(error, openai.APIStatusError):
        return _trouble_of_status(error)
    if isinstance(error, TimeoutError):  # ours: the client has none, and calls a lost connection one
        return Trouble("timeout")
    if isinstance(error, openai.APIConnectionError):
        return Trouble("connection")
    if isinstance(error, openai.APIResponseValidationError | ValueError):
        raise NothingUsable("invalid_json") from error  # the body is not JSON
    return Trouble("server_error", passes_soon=False)


def _trouble_of_status(error: openai.APIStatusError) -> Trouble:
    status = error.status_code
    if status in _REJECTED:
        raise NothingUsable("content_filter" if error.code == "content_filter" else "rejected") from error
    if status in _MISCONFIGURED:
        return Trouble("misconfigured", passes_soon=False)
    asked = asked_seconds(error.response.headers, time.time())
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        if _NO_MONEY in (error.code, error.type):
            return Trouble("insufficient_quota", passes_soon=False)
        return Trouble("rate_limited", asked_seconds=asked)
    if status == HTTPStatus.REQUEST_TIMEOUT:
        return Trouble("timeout", asked_seconds=asked)
    passes_soon = status == HTTPStatus.CONFLICT or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return Trouble("server_error", passes_soon, asked)


def is_free(error: openai.OpenAIError) -> bool:
    """Whether it is sure that nothing is charged: the endpoint said no, or the request never left."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code not in _MAY_HAVE_WORKED
    # The client's own exceptions do not tell a connection that never was from one that was lost.
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, aiohttp.ClientConnectorError):
        cause = cause.__cause__
    return cause is not None


def asked_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Of `retry-after-ms` or `Retry-After`, which is seconds or a date; None where they say nothing sensible."""
    seconds = _number(headers.get("retry-after-ms"))
    if seconds is not None:
        return seconds / 1000
    written = headers.get("retry-after")
    seconds = _number(written)
    if seconds is not None or written is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(written).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _number(written: str | None) -> float | None:
    try:
        number = float(written or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
