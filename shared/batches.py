"""What happens to one batch of records, without any Kafka: decode, handle, retry, refuse, finish.

Every record ends in one of two ways: its effect is durable (the handler returned), or it is a dead letter that
the broker has acknowledged. Only then is it finished, and records are finished in the order they were read:
a stream that finished a later one first would commit past an earlier one whose effect is still missing.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeVar

from msgspec import Struct

from shared import dead_letters, events, logs, stream_metrics
from shared.dead_letters import Letter, Record
from shared.errors import DeadlineExceeded, Overloaded, Unavailable
from shared.events import Event, InvalidEvent, Reason, Source
from shared.kafka import Producer

ATTEMPTS: Final = 3  # of one record whose handling raises what nobody expected
TRANSIENT: Final = (Unavailable, Overloaded, DeadlineExceeded)
FIRST_DELAY_SECONDS: Final = 0.1
LONGEST_DELAY_SECONDS: Final = 30.0
T = TypeVar("T")
log = logs.get(__name__)


class Delivery(Struct, frozen=True, gc=False):
    """A valid event and where it lies. `source.appended_at` is the broker's append time, seconds since 1970."""

    event: Event
    source: Source


class Refused(Struct, frozen=True):
    """A delivery that the handler will never accept; it becomes a dead letter."""

    delivery: Delivery
    reason: Reason
    message: str


Handler = Callable[[Sequence[Delivery]], Awaitable[Sequence[Refused]]]


class Stopped(Exception):
    """Told to stop while waiting. What is not finished by now will be read again."""


class Batch:
    """Records on their way to their end.

    `is_ours(record)` says whether this worker still holds the record's partition since it was read; what is not
    ours any more is left to whoever reads it again. `finish(records)` is awaited with those that have ended, in
    order and each once.
    """

    def __init__(
        self,
        records: Sequence[Record],
        is_ours: Callable[[Record], bool],
        finish: Callable[[Sequence[Record]], Awaitable[None]],
    ) -> None:
        self.records = records
        self._is_ours = is_ours
        self._finish = finish
        self._ended: set[Source] = set()
        self._lost: set[Source] = set()
        self._next = 0

    def live(self, sources: Sequence[Source]) -> set[Source]:
        """Those that are still ours. One that was not ours once never is again."""
        for record in self.records[self._next :]:
            if record.source not in self._ended and not self._is_ours(record):
                self._lost.add(record.source)
        return set(sources) - self._lost

    async def end(self, sources: Sequence[Source]) -> None:
        """These have their effect or their dead letter; finish all up to the first that has not."""
        self._ended.update(source for source in sources if source not in self._lost)
        done = []
        while self._next < len(self.records):
            record = self.records[self._next]
            if record.source in self._ended:
                done.append(record)
            elif record.source not in self._lost:
                break
            self._next += 1
        if done:
            await self._finish(done)


class Batches:
    """Brings batches to their end, one at a time."""

    def __init__(self, name: str, group: str, handle: Handler, producer: Producer, stopping: asyncio.Event) -> None:
        self._name = name
        self._group = group
        self._handle = handle
        self._producer = producer
        self._stopping = stopping
        self.backing_off = False
        self.ended = 0  # records; grows with progress

    async def run(self, batch: Batch) -> None:
        """Bring every record of the batch to its end, as long as it takes.

        Raises Stopped when told to stop while it waits. Nothing that the handler raises comes out of here.
        """
        stream_metrics.BATCH_RECORDS.labels(self._name).observe(len(batch.records))
        deliveries, letters = self._decode(batch)
        await self._bury(batch, letters)
        if not deliveries:
            return
        try:
            await self._until_available(lambda: self._attempt(batch, deliveries))
        except Stopped:
            raise
        except Exception as error:  # a defect of the handler: find its record, let the rest pass
            log.warning("handler failed; trying one by one", stream=self._name, error=repr(error), exc_info=error)
            await self._one_by_one(batch, deliveries)

    def _decode(self, batch: Batch) -> tuple[list[Delivery], list[Letter]]:
        deliveries, letters = [], []
        for record in batch.records:
            try:
                # Judged as of when the broker took it, so that a replay and the archiver decide alike.
                event = events.decode(record.source.topic, record.value, now=record.source.appended_at)
            except InvalidEvent as error:
                letters.append(self._letter(record, error.reason, str(error)))
            else:
                deliveries.append(Delivery(event, record.source))
        return deliveries, letters

    async def _attempt(self, batch: Batch, deliveries: Sequence[Delivery]) -> None:
        """One call of the handler with those that are still ours, and the end of each."""
        live = batch.live([d.source for d in deliveries])
        mine = [d for d in deliveries if d.source in live]
        if not mine:
            return
        with stream_metrics.HANDLER_SECONDS.labels(self._name).time():
            refused = await self._handle(mine)
        buried = {r.delivery.source: r for r in refused}
        if not buried.keys() <= live:
            raise ValueError("the handler refused a delivery that it was not given")
        letters = [
            self._letter(record, found.reason, found.message)
            for record in (batch.records if buried else ())
            if (found := buried.get(record.source)) is not None
        ]
        await self._bury(batch, letters)
        await self._end(batch, [d.source for d in mine if d.source not in buried])

    async def _one_by_one(self, batch: Batch, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if self._stopping.is_set():
                raise Stopped
            await self._one(batch, delivery)

    async def _one(self, batch: Batch, delivery: Delivery) -> None:
        """Try one record ATTEMPTS times; then it is a dead letter."""
        delays, sentence = _delays(), ""
        for attempt in range(1, ATTEMPTS + 1):
            if attempt > 1:
                await self._wait(next(delays))
            try:
                await self._until_available(lambda: self._attempt(batch, [delivery]))
            except Stopped:
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, the stream must go on
                sentence = f"{type(error).__name__}: {error}"
                log.warning("handler failed", stream=self._name, attempt=attempt, error=sentence)
            else:
                return
        record = next(r for r in batch.records if r.source == delivery.source)
        await self._bury(batch, [self._letter(record, "handler_error", sentence, ATTEMPTS)])

    async def _bury(self, batch: Batch, letters: Sequence[Letter]) -> None:
        """Write dead letters, together, until the broker has each; a letter it has is not written again."""
        unsent = list(letters)

        async def attempt() -> None:
            live = batch.live([letter.record.source for letter in unsent])
            sending = [letter for letter in unsent if letter.record.source in live]
            results = await asyncio.gather(
                *(dead_letters.send(self._producer, letter) for letter in sending), return_exceptions=True
            )
            failed = [(x, r) for x, r in zip(sending, results, strict=True) if isinstance(r, BaseException)]
            unsent[:] = [letter for letter, _ in failed]
            if failed:
                raise failed[0][1]

        if unsent:
            await self._until_available(attempt)
            await self._end(batch, [letter.record.source for letter in letters])

    async def _end(self, batch: Batch, sources: Sequence[Source]) -> None:
        for topic, count in Counter(source.topic for source in sources).items():
            stream_metrics.RECORDS.labels(self._name, topic).inc(count)
        self.ended += len(sources)
        await batch.end(sources)

    async def _until_available(self, attempt: Callable[[], Awaitable[T]]) -> T:
        delays = _delays()
        while True:
            try:
                return await attempt()
            except TRANSIENT as error:
                stream_metrics.RETRIES.labels(self._name).inc()
                log.warning("backing off", stream=self._name, error=f"{type(error).__name__}: {error}")
                await self._back_off(next(delays))

    async def _back_off(self, seconds: float) -> None:
        self.backing_off = True
        stream_metrics.BACKING_OFF.labels(self._name).set(1)
        try:
            await self._wait(seconds)
        finally:
            self.backing_off = False
            stream_metrics.BACKING_OFF.labels(self._name).set(0)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise Stopped

    def _letter(self, record: Record, reason: Reason, error: str, attempt: int = 1) -> Letter:
        return Letter(record, self._group, self._name, reason, error, attempt)


def _delays() -> Iterator[float]:
    """Seconds to wait before each further attempt: doubling up to a bound, with jitter so that workers spread."""
    delay = FIRST_DELAY_SECONDS
    while True:
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret
        delay = min(delay * 2, LONGEST_DELAY_SECONDS)
