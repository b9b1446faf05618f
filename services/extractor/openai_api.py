"""What goes wrong with an OpenAI-compatible endpoint, as errors of ours; and its embeddings."""

from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

import numpy as np
import openai
from openai import AsyncOpenAI

from services.extractor import metrics
from services.extractor.findings import Failure, NothingUsable
from services.extractor.redaction import redacted
from services.extractor.settings import OpenAISettings
from shared import logs
from shared.errors import Unavailable
from shared.space import Floats

R = TypeVar("R")
TEXTS_AT_ONCE: Final = 256
CHARS_A_TOKEN: Final = 4  # about; only bounds what is sent
log = logs.get(__name__)

# What the endpoint refuses because of this request, and will refuse again.
_REJECTED: Final = (openai.BadRequestError, openai.UnprocessableEntityError)
_TOO_LARGE: Final = 413
# Anything else may pass: the network, a limit, the server; and a wrong key or model, once the operator has set it
# right. Nothing is lost meanwhile: the stream waits.
_REASON_TO_WAIT: Final[tuple[tuple[type[openai.OpenAIError], str], ...]] = (
    (openai.RateLimitError, "rate_limited"),
    (openai.APITimeoutError, "timeout"),
    (openai.APIConnectionError, "connection"),
    (openai.InternalServerError, "server_error"),
    (openai.AuthenticationError, "misconfigured"),
    (openai.PermissionDeniedError, "misconfigured"),
    (openai.NotFoundError, "misconfigured"),
)


async def answer_of(request: Awaitable[R]) -> R:
    """Await one request of the client (which has its own timeout and bounded retries).

    Raises NothingUsable where this request will never succeed, Unavailable where it may succeed later.
    """
    try:
        return await request
    except openai.APIStatusError as error:
        if isinstance(error, _REJECTED) or error.status_code == _TOO_LARGE:
            raise NothingUsable(_rejection(error)) from error
        raise _unavailable(error) from error
    except (openai.APIResponseValidationError, ValueError) as error:  # the body is not JSON
        raise NothingUsable("invalid_json") from error
    except openai.OpenAIError as error:
        raise _unavailable(error) from error


def _rejection(error: openai.APIStatusError) -> Failure:
    return "content_filter" if error.code == "content_filter" else "rejected"


def _unavailable(error: openai.OpenAIError) -> Unavailable:
    reason = next((reason for kind, reason in _REASON_TO_WAIT if isinstance(error, kind)), "server_error")
    metrics.FAILURES.labels(reason).inc()
    if reason == "misconfigured":
        log.error("the endpoint does not accept our key or model", status=getattr(error, "status_code", None))
    return Unavailable(f"the language model's endpoint does not answer: {reason}")


class OpenAIEmbeddings:
    """As LocalEmbeddings, over HTTP; the endpoint shortens its vectors to `dimensions`."""

    def __init__(self, client: AsyncOpenAI, settings: OpenAISettings, dim: int) -> None:
        self.name = settings.embedding_model
        self.dim = dim
        self._client = client
        self._redact = settings.redact

    async def embed(self, texts: Sequence[str], max_tokens: int) -> Floats:
        sent = [redacted(text[: max_tokens * CHARS_A_TOKEN], self._redact) or " " for text in texts]
        parts = [await self._part(sent[i : i + TEXTS_AT_ONCE]) for i in range(0, len(sent), TEXTS_AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    async def close(self) -> None:
        await self._client.close()

    async def _part(self, texts: list[str]) -> Floats:
        request = self._client.embeddings.create(
            model=self.name, input=texts, dimensions=self.dim, encoding_format="float"
        )
        try:
            answer = await answer_of(request)
        except NothingUsable as error:  # no text of ours is at fault, so the endpoint is
            raise Unavailable(f"the embeddings endpoint does not take our request: {error.reason}") from error
        if answer.usage:
            metrics.TOKENS.labels("embedding").inc(answer.usage.total_tokens)
        rows = sorted(answer.data or [], key=lambda row: row.index)
        if [len(row.embedding) for row in rows] != [self.dim] * len(texts):
            raise Unavailable(f"the endpoint's embeddings are not {len(texts)} vectors of {self.dim} numbers")
        vectors = np.asarray([row.embedding for row in rows], np.float32)
        unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit
