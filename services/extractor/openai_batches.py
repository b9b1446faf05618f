"""The Batch API of an OpenAI-compatible endpoint: a file of requests, answered within a day at a lower price.

A batch carries a tag of ours, and so do the names of the files that we upload: what was created though its answer was
lost can be found again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import IO, Any, Final, TypeVar

import openai

from services.extractor.findings import NothingUsable
from services.extractor.openai_endpoint import Endpoint
from shared.errors import FinestreamError, Unavailable
from shared.service import WrongSetting

R = TypeVar("R")
MOST_BYTES: Final = 200_000_000  # of a file of requests
URL: Final = "/v1/chat/completions"  # of each request
TRANSFER_SECONDS: Final = 900.0  # of one try to move a file, or to list what there is
# What is left behind goes by itself: between the least that Azure takes and the most that OpenAI does.
KEPT_SECONDS: Final = 14 * 86_400
TAG: Final = "finestream"  # the key of our tag in a batch's metadata
_OVER: Final = ("completed", "failed", "expired", "cancelled")
_FULL: Final = "token_limit_exceeded"  # the account has as many tokens waiting as it may


class BatchRefused(FinestreamError):
    """The endpoint will never do this batch."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the language model's endpoint refuses a batch: {reason}")


@dataclass(frozen=True, slots=True)
class Batch:
    """What the endpoint says of a batch."""

    id: str
    tag: str  # ours; empty: somebody else's
    status: str
    asked: str  # id of the file of requests
    answers: str  # ids of the files of answers and of errors; empty: none
    errors: str
    codes: tuple[str, ...]  # why it failed as a whole
    done: int  # requests that are answered, or have failed

    @property
    def is_over(self) -> bool:
        return self.status in _OVER

    @property
    def has_failed(self) -> bool:
        """As a whole: nothing of it was done."""
        return self.status == "failed"

    @property
    def was_too_much(self) -> bool:
        """It failed for want of room, and may not when others are over or it is smaller."""
        return self.has_failed and _FULL in self.codes

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(id_ for id_ in (self.asked, self.answers, self.errors) if id_)


class Batches:
    """Raises Unavailable, BatchRefused for a 4xx, and WrongSetting where there is no Batch API."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._client = endpoint.client
        self._calls = endpoint.calls
        self._seconds = endpoint.settings.timeout_seconds

    async def upload(self, name: str, file: IO[bytes]) -> str:
        """The id of the new file. One whose answer was lost is left behind under the same name."""

        async def request() -> Any:
            file.seek(0)
            return await self._client.files.create(
                file=(name, file, "application/jsonl"), purpose="batch",
                expires_after={"anchor": "created_at", "seconds": KEPT_SECONDS},
            )  # fmt: skip

        return _id_of(await self._called(request, TRANSFER_SECONDS))

    async def create(self, file: str, tag: str) -> Batch:
        """Begin to answer the file. When this raises Unavailable there may be such a batch, and the file is needed."""

        async def request() -> Any:
            return await self._client.batches.create(
                input_file_id=file, endpoint=URL, completion_window="24h", metadata={TAG: tag},
                output_expires_after={"anchor": "created_at", "seconds": KEPT_SECONDS},
            )  # fmt: skip

        return _read(await self._called(request, self._seconds, again=False))

    async def get(self, batch: str) -> Batch:
        return _read(await self._called(lambda: self._client.batches.retrieve(batch), self._seconds))

    async def tagged(self, prefix: str) -> dict[str, Batch]:
        """Those whose tags begin so, by tag; not what failed, of which nothing was done."""

        async def request() -> dict[str, Batch]:
            found = [_read(batch) async for batch in self._client.batches.list(limit=100)]
            return {batch.tag: batch for batch in found if batch.tag.startswith(prefix) and not batch.has_failed}

        return await self._called(request, TRANSFER_SECONDS)

    async def uploaded(self, prefix: str) -> dict[str, str]:
        """Ids of the files whose names begin so, and their names."""

        async def request() -> dict[str, str]:
            found = {str(file.id): str(file.filename) async for file in self._client.files.list(purpose="batch")}
            return {id_: name for id_, name in found.items() if name.startswith(prefix)}

        return await self._called(request, TRANSFER_SECONDS)

    async def download(self, file: str, into: IO[bytes]) -> None:
        """A file that is no more is empty."""

        async def request() -> None:
            into.seek(0)
            into.truncate()
            try:
                async with self._client.files.with_streaming_response.content(file) as content:
                    async for some in content.iter_bytes():
                        into.write(some)
            except openai.NotFoundError:
                return

        await self._called(request, TRANSFER_SECONDS)
        into.seek(0)

    async def delete(self, file: str) -> None:
        """A file that is no more is deleted already."""

        async def request() -> None:
            try:
                await self._client.files.delete(file)
            except openai.NotFoundError:
                return

        await self._called(request, self._seconds)

    async def _called(self, request: Callable[[], Awaitable[R]], seconds: float, *, again: bool = True) -> R:
        async def tried() -> R:
            try:
                async with asyncio.timeout(seconds):
                    return await request()
            except openai.NotFoundError as error:
                raise WrongSetting(
                    f"FINESTREAM_OPENAI_BASE_URL: {error.request.url.path} is not found: the endpoint has no Batch API,"
                    " or the batch is of another account"
                ) from None

        try:
            return await self._calls(tried, again=again)
        except NothingUsable as error:
            raise BatchRefused(error.reason) from error


def _read(answer: Any) -> Batch:
    """`answer` is what the client made of any JSON: no field of it is sure to be there."""
    metadata: Any = getattr(answer, "metadata", None)
    tag = metadata.get(TAG) if isinstance(metadata, dict) else None
    said: Any = getattr(getattr(answer, "errors", None), "data", None)
    counts = getattr(answer, "request_counts", None)
    return Batch(
        id=_id_of(answer),
        tag=tag if isinstance(tag, str) else "",
        status=str(getattr(answer, "status", "")),
        asked=str(getattr(answer, "input_file_id", None) or ""),
        answers=str(getattr(answer, "output_file_id", None) or ""),
        errors=str(getattr(answer, "error_file_id", None) or ""),
        codes=tuple(str(getattr(error, "code", None)) for error in said) if isinstance(said, list) else (),
        done=_number(counts, "completed") + _number(counts, "failed"),
    )


def _number(counts: Any, name: str) -> int:
    found = getattr(counts, name, None)
    return found if isinstance(found, int) else 0


def _id_of(answer: Any) -> str:
    found = getattr(answer, "id", None)
    if not isinstance(found, str) or not found:
        raise Unavailable("the language model's endpoint answers without an id")
    return found
