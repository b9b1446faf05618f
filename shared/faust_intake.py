"""From Faust's stream to batches of records, in two ways: whole fetches (the default), or message by message.

Both leave every acknowledgement to us. A message carries one reference more than Faust holds, since Faust
acknowledges what it skips after a rebalance; only an offset whose record is finished is ever committed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import faust
from faust.types.tuples import TP

from shared.batches import Batch
from shared.dead_letters import Record
from shared.events import Source
from shared.kafka import name_of, plain_name
from shared.settings import KafkaSettings

TAKE_SECONDS: Final = 0.02  # message by message: the longest wait for a full batch
Position = tuple[str, int]  # topic as the broker names it, partition


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch, and what commits all of it that is finished."""

    batch: Batch
    commit: Callable[[], Awaitable[None]]


class Progress:
    """The newest offset of each partition that was delivered here, and the newest that is finished."""

    def __init__(self) -> None:
        self._delivered: dict[Position, int] = {}
        self._finished: dict[Position, int] = {}

    def deliver(self, at: Position, first: int, last: int) -> None:
        self._finished.setdefault(at, first - 1)
        self._delivered[at] = last

    def finish(self, at: Position, offset: int) -> None:
        self._finished[at] = offset

    def unfinished(self, at: Position) -> int | None:
        """The first offset that is not finished; None where nothing is in process."""
        if self._delivered.get(at) == self._finished.get(at):
            return None
        return self._finished.get(at, -1) + 1

    def clear(self) -> None:
        self._delivered.clear()
        self._finished.clear()


class Intake(Protocol):
    schema: faust.Schema[Any, Any]
    progress: Progress

    @property
    def broken(self) -> bool:
        """No commit will go through any more."""

    def take(self, stream: Any) -> AsyncIterator[Taken]:
        """Batches of the agent's stream, one after the other."""

    async def flush(self) -> None:
        """Wait until everything that was finished is committed."""


class _Schema(faust.Schema[Any, Any]):
    """Keys and values as they came, and one reference more than Faust holds."""

    def __init__(self, delivered: Callable[[Any], None]) -> None:
        super().__init__(key_serializer="raw", value_serializer="raw", allow_empty=True)
        self._delivered = delivered

    def compile(self, app: Any, **_: Any) -> Callable[..., Awaitable[Any]]:
        async def decode(message: Any, *, propagate: bool = False) -> Any:
            message.incref()
            self._delivered(message)
            return app.create_event(message.key, message.value, message.headers, message)

        return decode


class FetchIntake:
    """A batch is a fetch of `FetchConsumer`. Faust sees no acknowledgement; offsets are committed by partition.

    The next batch does not wait for the commit of the one before: what finishes while a commit is under way is
    committed with the next one.
    """

    def __init__(self, app: Any, kafka: KafkaSettings, batch_size: int) -> None:
        self._app = app
        self._kafka = kafka
        self._uncommitted: dict[TP, int] = {}  # the offset to read next
        self._epoch = 0  # that these are of
        self._committing: asyncio.Task[None] | None = None
        self.progress = Progress()
        self.schema = _Schema(self._on_delivered)

    async def take(self, stream: Any) -> AsyncIterator[Taken]:
        async for event in stream.noack().events():
            yield self._taken(event.message.value)

    @property
    def broken(self) -> bool:
        task = self._committing
        return task is not None and task.done() and not task.cancelled() and task.exception() is not None

    async def flush(self) -> None:
        if self._committing is not None:
            await asyncio.wait([self._committing])

    def _taken(self, fetch: Any) -> Taken:
        names = {record.topic: plain_name(self._kafka, record.topic) for record in fetch.records}
        finished: dict[TP, int] = {}

        async def finish(records: Sequence[Record]) -> None:
            for record in records:
                source = record.source
                finished[TP(name_of(self._kafka, source.topic), source.partition)] = source.offset
            if self._is_current(fetch):
                for tp, offset in finished.items():
                    self.progress.finish((tp.topic, tp.partition), offset)

        async def commit() -> None:
            if finished and self._is_current(fetch):
                self._commit(fetch.epoch, {tp: offset + 1 for tp, offset in finished.items()})

        records = [
            Record(
                Source(names[r.topic], r.partition, r.offset, r.timestamp / 1000.0), r.key, r.value, tuple(r.headers)
            )
            for r in fetch.records
        ]
        return Taken(Batch(records, lambda _: self._is_current(fetch), finish), commit)

    def _commit(self, epoch: int, offsets: dict[TP, int]) -> None:
        if epoch != self._epoch:  # what is left of an older epoch has other owners
            self._epoch, self._uncommitted = epoch, {}
        self._uncommitted.update(offsets)
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all())

    async def _commit_all(self) -> None:
        while self._uncommitted and self._epoch == self._app.consumer.epoch:
            offsets, self._uncommitted = self._uncommitted, {}
            await self._app.consumer.commit_through(offsets)  # where it fails, Faust crashes and is built anew

    def _is_current(self, fetch: Any) -> bool:
        return bool(fetch.epoch == self._app.consumer.epoch)

    def _on_delivered(self, message: Any) -> None:
        if self._is_current(message.value):
            bounds: dict[Position, tuple[int, int]] = {}
            for record in message.value.records:
                at = (record.topic, record.partition)
                bounds[at] = (bounds.get(at, (record.offset, 0))[0], record.offset)
            for at, (first, last) in bounds.items():
                self.progress.deliver(at, first, last)


class MessageIntake:
    """Faust's own way: its messages, taken without acknowledgement, each acknowledged when it is finished."""

    broken = False  # Faust's app says so itself

    def __init__(self, app: Any, kafka: KafkaSettings, batch_size: int) -> None:
        self._app = app
        self._kafka = kafka
        self._batch_size = batch_size
        self.progress = Progress()
        self.schema = _Schema(self._on_delivered)

    async def take(self, stream: Any) -> AsyncIterator[Taken]:
        async for events in stream.noack_take(self._batch_size, within=TAKE_SECONDS):
            yield self._taken(stream, events)

    async def flush(self) -> None:
        """Each batch has waited for its commit."""

    def _taken(self, stream: Any, events: Sequence[Any]) -> Taken:
        event_of = {self._source(event.message): event for event in events}

        async def finish(records: Sequence[Record]) -> None:
            for record in records:
                event = event_of[record.source]
                event.message.decref()  # ours; the next is Faust's, and the last one marks the offset as done
                await stream.ack(event)
                if self._is_current(event.message):
                    self.progress.finish((event.message.topic, event.message.partition), event.message.offset)

        async def commit() -> None:
            await self._app.commit({event.message.topic for event in events})

        records = [
            Record(source, event.message.key, event.message.value, tuple(event.message.headers or ()))
            for source, event in event_of.items()
        ]
        batch = Batch(records, lambda record: self._is_current(event_of[record.source].message), finish)
        return Taken(batch, commit)

    def _source(self, message: Any) -> Source:
        return Source(plain_name(self._kafka, message.topic), message.partition, message.offset, message.timestamp)

    def _is_current(self, message: Any) -> bool:
        return bool(message.generation_id == self._app.consumer_generation_id)

    def _on_delivered(self, message: Any) -> None:
        if self._is_current(message):
            self.progress.deliver((message.topic, message.partition), message.offset, message.offset)
