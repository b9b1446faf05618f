"""Whole fetches: what belongs to another assignment is neither handed out nor committed, and Faust is as we knew it."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP

from shared import topics
from shared.faust_fetches import Fetch, FetchConsumer
from shared.faust_intake import FetchIntake, Progress
from shared.settings import KafkaSettings

TOPIC = topics.INTERACTIONS


def record(offset: int, partition: int = 0) -> Any:
    return ConsumerRecord(TOPIC, partition, offset, 1_000_000, 1, b"u", b"{}", None, 1, 2, [])


def test_what_is_replaced_is_still_what_faust_calls() -> None:
    assert "await consumer._drain_messages(self)" in inspect.getsource(faust_consumer.Fetcher)
    assert list(inspect.signature(faust_consumer.Consumer._wait_next_records).parameters) == ["self", "timeout"]
    assert list(inspect.signature(driver.Consumer._commit).parameters) == ["self", "offsets"]
    assert "self.Consumer(" in inspect.getsource(driver.Transport.create_consumer)


class Bench:
    """A consumer without a broker: `found` is what the next fetch brings, `during` what happens meanwhile."""

    def __init__(self, found: list[Any], during: Callable[[FetchConsumer], None] = lambda _: None) -> None:
        self.sought = 0
        self.consumer = object.__new__(FetchConsumer)
        self.consumer.epoch, self.consumer.flow_active = 7, True
        self.consumer.app = SimpleNamespace(consumer_generation_id=3)  # type: ignore[assignment]

        async def wait_next_records(timeout: float) -> tuple[Mapping[TP, list[Any]], None]:
            during(self.consumer)
            return {TP(TOPIC, 0): found} if found else {}, None

        async def perform_seek() -> None:
            self.sought += 1

        self.consumer._wait_next_records = wait_next_records  # type: ignore[assignment,method-assign]
        self.consumer.perform_seek = perform_seek  # type: ignore[method-assign]

    async def fetch(self) -> Any:
        return await self.consumer._fetch()


def move(consumer: FetchConsumer) -> None:
    consumer.epoch += 1


def halt(consumer: FetchConsumer) -> None:
    consumer.flow_active = False


async def test_a_fetch_is_one_message_with_all_its_records_and_their_epoch() -> None:
    bench = Bench([record(5), record(6)])
    message = await bench.fetch()
    assert message.value == Fetch([record(5), record(6)], 7)
    assert (message.generation_id, bench.sought) == (3, 0)
    assert await Bench([]).fetch() is None


@pytest.mark.parametrize("meanwhile", [move, halt])
async def test_what_was_fetched_while_the_assignment_moved_is_dropped_and_read_again(
    meanwhile: Callable[[FetchConsumer], None],
) -> None:
    bench = Bench([record(5)], meanwhile)
    assert await bench.fetch() is None
    assert bench.sought == 1, "back to what is committed: the position has moved on"


async def test_what_is_fetched_once_the_flow_is_back_is_of_the_new_assignment_and_kept() -> None:
    bench = Bench([record(5)])
    halt(bench.consumer)

    class Resumes:
        async def wait(self) -> None:
            move(bench.consumer)
            bench.consumer.flow_active = True

    async def wait(coroutine: Awaitable[None]) -> None:
        await coroutine

    bench.consumer.can_resume_flow = Resumes()  # type: ignore[assignment]
    bench.consumer.wait = wait  # type: ignore[assignment,method-assign]
    assert (await bench.fetch()).value == Fetch([record(5)], 8)
    assert bench.sought == 0


async def test_going_back_to_what_is_committed_starts_anew_where_nothing_is() -> None:
    committed = {TP(TOPIC, 0): 7, TP(TOPIC, 1): None, TP(TOPIC, 2): 0}
    rewound: list[TP] = []

    async def seek_to_committed() -> Mapping[TP, int | None]:
        return committed

    async def seek_to_beginning(*partitions: TP) -> None:
        rewound.extend(partitions)

    consumer = object.__new__(FetchConsumer)
    consumer._read_offset, consumer._committed_offset = {}, {}
    consumer.seek_to_committed = seek_to_committed  # type: ignore[assignment,method-assign]
    consumer._thread = SimpleNamespace(seek_to_beginning=seek_to_beginning)  # type: ignore[assignment]
    await consumer.perform_seek()
    assert rewound == [TP(TOPIC, 1), TP(TOPIC, 2)]
    assert consumer._read_offset == {TP(TOPIC, 0): 7, TP(TOPIC, 1): None, TP(TOPIC, 2): None}


class Consumer:
    """Where offsets are committed; a commit takes until `go` is set."""

    def __init__(self) -> None:
        self.epoch = 1
        self.commits: list[dict[TP, int]] = []
        self.go = asyncio.Event()

    async def commit_through(self, offsets: dict[TP, int]) -> None:
        self.commits.append(offsets)
        await self.go.wait()


async def ended(intake: FetchIntake, fetch: Fetch, count: int) -> None:
    """The first `count` records of a fetch have their effect."""
    taken = intake._taken(fetch)
    await taken.batch.end([r.source for r in taken.batch.records[:count]])
    await taken.commit()


def intake_over(consumer: Consumer) -> FetchIntake:
    return FetchIntake(SimpleNamespace(consumer=consumer), KafkaSettings(), 10)


async def test_only_what_is_finished_is_committed_and_what_finishes_meanwhile_goes_with_the_next_commit() -> None:
    consumer = Consumer()
    intake = intake_over(consumer)
    await ended(intake, Fetch([record(0), record(1), record(0, 1), record(2)], 1), 3)
    await asyncio.sleep(0)
    await ended(intake, Fetch([record(1, 1), record(2, 1)], 1), 1)
    await ended(intake, Fetch([record(2, 1)], 1), 1)
    consumer.go.set()
    await intake.flush()
    assert consumer.commits == [{TP(TOPIC, 0): 2, TP(TOPIC, 1): 1}, {TP(TOPIC, 1): 3}]


async def test_offsets_of_an_earlier_assignment_are_never_committed() -> None:
    consumer = Consumer()
    intake = intake_over(consumer)
    await ended(intake, Fetch([record(0)], 1), 1)
    await asyncio.sleep(0)
    await ended(intake, Fetch([record(1)], 1), 1)  # waits for the commit under way
    consumer.epoch = 2
    await ended(intake, Fetch([record(2)], 1), 1)  # was read before
    consumer.go.set()
    await intake.flush()
    await ended(intake, Fetch([record(7, 3)], 2), 1)
    await intake.flush()
    assert consumer.commits == [{TP(TOPIC, 0): 1}, {TP(TOPIC, 3): 8}]


async def test_a_commit_that_cannot_be_made_breaks_the_session() -> None:
    consumer = Consumer()

    async def closed(_: dict[TP, int]) -> None:
        raise ConnectionError("the thread is gone")

    consumer.commit_through = closed  # type: ignore[method-assign]
    intake = intake_over(consumer)
    assert not intake.broken
    await ended(intake, Fetch([record(0)], 1), 1)
    await intake.flush()
    assert intake.broken


def test_progress_says_what_is_delivered_and_not_finished() -> None:
    progress, at = Progress(), (TOPIC, 0)
    assert progress.unfinished(at) is None
    progress.deliver(at, 4, 9)
    assert progress.unfinished(at) == 4
    progress.finish(at, 6)
    assert progress.unfinished(at) == 7
    progress.finish(at, 9)
    assert progress.unfinished(at) is None
