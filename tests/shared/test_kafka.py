"""The producer: where a key goes, and what a caller is told when the broker does not acknowledge."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import RequestTimedOutError
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from shared import kafka, topics
from shared.errors import Unavailable
from shared.events import Interaction, Source
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
    """aiokafka's producer: `answers` are what the acknowledgements bring, in turn; None never comes."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)

    async def send(self, topic: str, **_: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        elif answer is not None:
            future.set_result(answer)
        return future


def placed(offset: int) -> SimpleNamespace:
    return SimpleNamespace(partition=1, offset=offset, timestamp=5000)


def producer_over(*answers: object) -> Producer:
    producer = Producer(KafkaSettings())
    producer._producer = Broker(*answers)  # type: ignore[assignment]
    return producer


BATCH: Any = [(topics.INTERACTIONS, Interaction(event_id=f"{n}", user_id="u", item_id="i", ts=1e9)) for n in range(3)]


async def test_every_record_of_a_batch_is_told_where_it_lies() -> None:
    found = await producer_over(placed(4), placed(5), placed(6)).send_all(BATCH)
    assert found == [Source(topics.INTERACTIONS, 1, offset, 5.0) for offset in (4, 5, 6)]
    assert await producer_over().send_all([]) == []


@pytest.mark.parametrize("missing", [None, RequestTimedOutError()])
async def test_a_batch_with_one_record_unacknowledged_is_unavailable(
    missing: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "SEND_SECONDS", 0.05)
    with pytest.raises(Unavailable, match="Kafka did not acknowledge the record"):
        await producer_over(placed(4), missing, placed(6)).send_all(BATCH)
