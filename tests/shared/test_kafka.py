"""The producer: where a key goes, and what a caller is told when the broker does not acknowledge."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import InvalidProducerEpoch, NodeNotReadyError, OutOfOrderSequenceNumber, RequestTimedOutError
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from shared import events, kafka, topics
from shared.errors import InvalidRequest, Unavailable
from shared.events import Interaction, Item, Source
from shared.kafka import Producer
from shared.settings import KafkaSettings

PARTITIONER = kafka._Partitioner()


@given(st.binary(max_size=40), st.integers(1, 200))
def test_a_key_goes_where_kafkas_own_partitioner_sends_it(key: bytes, count: int) -> None:
    partitions = list(range(count))
    assert PARTITIONER(key, partitions, partitions) == DefaultPartitioner()(key, partitions, partitions)


def test_a_record_without_a_key_goes_to_any_partition_that_is_there() -> None:
    assert {PARTITIONER(None, list(range(9)), [2, 3]) for _ in range(100)} == {2, 3}


class Broker:
    """aiokafka's producer over topics of two partitions. `answers` are what the acknowledgements of its batches bring,
    in turn; None never comes. A batch holds `room` records.
    """

    def __init__(self, *answers: object, room: int = 10) -> None:
        self._answers = list(answers)
        self._room = room
        self.batches: list[tuple[str, int, list[bytes]]] = []
        self.stopped = False

    async def stop(self) -> None:
        self.stopped = True

    async def partitions_for(self, topic: str) -> set[int]:
        return {0, 1}

    def create_batch(self) -> Any:
        return Builder(self._room)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
        self.batches.append((topic, partition, batch.values))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        elif answer is not None:
            future.set_result(answer)
        return future


class Builder:
    def __init__(self, room: int) -> None:
        self._room = room
        self.values: list[bytes] = []

    def append(self, *, timestamp: int, key: bytes, value: bytes) -> object:
        if len(self.values) == self._room:
            return None
        self.values.append(value)
        return timestamp


def placed(offset: int, timestamp: int = 5000) -> SimpleNamespace:
    return SimpleNamespace(offset=offset, timestamp=timestamp)


def over(broker: Broker) -> Producer:
    producer = Producer(KafkaSettings())
    producer._producer = broker  # type: ignore[assignment]
    return producer


def click(n: int) -> Interaction:
    return Interaction(event_id=f"{n}", user_id=f"u{n % 7}", item_id="i", ts=1e9)


async def test_every_record_of_a_batch_is_told_where_it_lies() -> None:
    batch = [(topics.INTERACTIONS, click(n)) for n in range(9)]
    offsets = iter(range(100, 1000, 100))
    broker = Broker(*(placed(next(offsets)) for _ in range(9)), room=2)
    found = await over(broker).send_all(batch)
    by_value = {
        value: Source(topics.INTERACTIONS, partition, 100 * (number + 1) + n, 5.0)
        for number, (_, partition, values) in enumerate(broker.batches)
        for n, value in enumerate(values)
    }
    assert found == [by_value[events.encode(event)] for _, event in batch]
    assert len({partition for _, partition, _ in broker.batches}) == 2
    assert await over(Broker()).send_all([]) == []


async def test_records_of_a_partition_keep_their_order_over_several_batches() -> None:
    batch = [(topics.INTERACTIONS, click(n)) for n in range(30)]
    broker = Broker(*(placed(0) for _ in range(30)), room=3)
    await over(broker).send_all(batch)
    for partition in (0, 1):
        sent = [value for _, number, values in broker.batches if number == partition for value in values]
        assert sent == [events.encode(event) for _, event in batch if events.encode(event) in sent]
    assert sum(len(values) for _, _, values in broker.batches) == 30


async def test_a_topic_that_keeps_the_producers_time_gives_that() -> None:
    before = int(time.time() * 1000) / 1000
    [source] = await over(Broker(placed(7, -1))).send_all([(topics.INTERACTIONS, click(0))])
    assert before <= source.appended_at <= time.time()


async def test_a_record_that_no_broker_takes_is_refused_before_anything_is_sent() -> None:
    broker = Broker()
    item = Item(item_id="i", ts=1e9, description="x" * 1_000_001)
    with pytest.raises(InvalidRequest, match="too large for Kafka"):
        await over(broker).send_all([(topics.INTERACTIONS, click(0)), (topics.ITEMS, item)])
    assert not broker.batches


@pytest.mark.parametrize("missing", [None, RequestTimedOutError()])
async def test_a_batch_with_one_record_unacknowledged_is_unavailable(
    missing: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "SEND_SECONDS", 0.05)
    batch = [(topics.INTERACTIONS, click(n)) for n in range(3)]
    with pytest.raises(Unavailable, match="Kafka did not acknowledge the record"):
        await over(Broker(placed(4), missing, placed(6), room=1)).send_all(batch)


@pytest.mark.parametrize("lost", [OutOfOrderSequenceNumber(), InvalidProducerEpoch()])
async def test_a_producer_that_the_broker_lost_count_of_is_made_anew(
    lost: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Broker(lost, lost), Broker(placed(4))
    producer = over(old)

    async def started() -> Broker:
        return new

    monkeypatch.setattr(producer, "_started", started)
    batch = [(topics.INTERACTIONS, click(0))]
    with pytest.raises(Unavailable):
        await producer.send_all(batch)
    assert [source.offset for source in await producer.send_all(batch)] == [4]
    assert old.stopped


class Admin:
    """aiokafka's admin client of a broker that fails `fails` times, in whatever step, before it answers."""

    fails: list[Exception]

    def __init__(self, **_: Any) -> None:
        self.closed = False

    async def start(self) -> None:
        self._fail()

    async def list_topics(self) -> list[str]:
        self._fail()
        return []

    async def create_topics(self, wanted: list[Any]) -> Any:
        self._fail()
        return SimpleNamespace(topic_errors=[(topic.name, 0, None) for topic in wanted])

    async def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        self._fail()
        return [{"topic": name, "partitions": [0] * KafkaSettings().partitions} for name in names]

    async def close(self) -> None:
        self.closed = True

    def _fail(self) -> None:
        if Admin.fails:
            raise Admin.fails.pop(0)


async def test_a_broker_that_goes_while_topics_are_made_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "AIOKafkaAdminClient", Admin)
    Admin.fails = [RequestTimedOutError(), ConnectionError(), NodeNotReadyError()]
    await kafka.ensure_topics(KafkaSettings())
    assert not Admin.fails


async def test_a_broker_that_never_answers_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "AIOKafkaAdminClient", Admin)
    monkeypatch.setattr(kafka, "START_SECONDS", 0.5)
    Admin.fails = [RequestTimedOutError()] * 100
    with pytest.raises(Unavailable, match=r"no Kafka answers at .*RequestTimedOutError"):
        await kafka.ensure_topics(KafkaSettings())
