"""Faust's consumer, handing to the agent what it fetched as it was fetched: one message a fetch, not one a record.

Between the fetch and the agent Faust 0.15.3 makes four tasks, a message, an event and an acknowledgement of every
record; `finestream bench intake` shows what that costs. Here a fetch travels through the same conductor, queue and
agent as one message whose value is the records. Membership, rebalances, flow control and the thread that talks to
Kafka stay Faust's.

`_drain_messages`, `_wait_next_records`, `_commit` and what `perform_seek` updates are private to Faust; they are
touched here and nowhere else, and a test fails when upstream changes them. FINESTREAM_KAFKA_WHOLE_FETCHES=false goes
back to Faust's own way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage

FETCH_SECONDS: Final = 1.0  # the longest wait for records


class FromTheStart(driver.Consumer):
    """Faust's consumer, which also goes back where nothing has been committed yet.

    aiokafka's seek_to_committed leaves a partition without a commit where it is; what was fetched of it and dropped
    in a rebalance would never come again.
    """

    async def perform_seek(self) -> None:
        committed = await self.seek_to_committed()
        never = [tp for tp, offset in committed.items() if not offset]
        if never:
            await self._thread.seek_to_beginning(*never)
        self._read_offset.update({tp: offset or None for tp, offset in committed.items()})
        self._committed_offset.update({tp: offset or None for tp, offset in committed.items()})


@dataclass(frozen=True, slots=True)
class Fetch:
    """Records in order per partition, and the epoch of the assignment that they were read under."""

    records: Sequence[Any]  # aiokafka's ConsumerRecord
    epoch: int


class FetchConsumer(FromTheStart):
    """One message a fetch. `epoch` moves whenever partitions are revoked or assigned.

    Under one epoch a partition's records come without a gap from the committed offset on: what was fetched while
    the epoch moved is dropped, and the consumer goes back to what is committed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch = 0

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self.epoch += 1
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.epoch += 1
        await super().on_partitions_assigned(assigned, generation_id)

    async def commit_through(self, offsets: Mapping[TP, int]) -> None:
        """Commit the offsets to read next. One that the group no longer takes from us is left to its new owner."""
        await self._commit(offsets)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust looks for acknowledgements, of which there are none; the stream has a heartbeat of its own."""

    def on_buffer_full(self, tp: TP) -> None:
        """Faust would not ask for this partition until the queue has room, and then not notice that it has."""

    def on_buffer_drop(self, tp: TP) -> None:
        """See on_buffer_full."""

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                fetched = await self._fetch()
                if fetched is not None:
                    await self.callback(fetched)  # waits while the agent's queue is full
                await self.sleep(0)  # a fetch of what lies ready, and an empty queue, never yield
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _fetch(self) -> ConsumerMessage | None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow.wait())  # the epoch moves meanwhile
        epoch = self.epoch
        found, _ = await self._wait_next_records(FETCH_SECONDS)
        records = [record for of_partition in (found or {}).values() for record in of_partition]
        if not records:
            return None
        if epoch != self.epoch or not self.flow_active:
            await self.perform_seek()
            return None
        last = records[-1]
        value: Any = Fetch(records, epoch)  # where Faust expects bytes, and never looks
        return ConsumerMessage(
            last.topic, last.partition, last.offset, last.timestamp / 1000.0, last.timestamp_type, None, None, value,
            None, -1, -1, TP(last.topic, last.partition), generation_id=self.app.consumer_generation_id,
        )  # fmt: skip


class FetchTransport(driver.Transport):
    """Faust's transport with the consumer above."""

    Consumer = FetchConsumer


class MessageTransport(driver.Transport):
    """Faust's transport, and its own way from a fetch to the agent."""

    Consumer = FromTheStart
