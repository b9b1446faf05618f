"""How far the system has come, seen from Kafka: ends of topics, lags of groups, dead letters."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from shared import dead_letters, topics
from shared.dead_letters import Letter
from shared.kafka import client_options, name_of, plain_name
from shared.settings import KafkaSettings

Places = dict[str, dict[int, int]]  # topic -> partition -> offset

DEAD_LETTER_TOPICS: Final = tuple(topics.dead_letters(t.name) for t in topics.ALL if t.dead_letters)


class Watch:
    """Reads only; belongs to no group. Topic names are the plain ones."""

    def __init__(self, kafka: KafkaSettings, consumer: AIOKafkaConsumer, admin: AIOKafkaAdminClient) -> None:
        self._kafka = kafka
        self._consumer = consumer
        self._admin = admin

    async def ends(self, names: Sequence[str]) -> Places:
        """The next offset of every partition of these topics."""
        found = await self._consumer.end_offsets(self._partitions(names))
        places: Places = {name: {} for name in names}
        for partition, offset in found.items():
            places[plain_name(self._kafka, partition.topic)][partition.partition] = offset
        return places

    async def lags(self) -> dict[str, int]:
        """Group -> how many records of the topics it has committed in are not committed yet."""
        groups = [name for name, *_ in await self._admin.list_consumer_groups()]
        ours = sorted(name for name in groups if name.startswith(self._kafka.topic_prefix))
        known = {name_of(self._kafka, topic.name) for topic in topics.ALL}
        lags = {}
        for group in ours:
            committed = await self._admin.list_consumer_group_offsets(group)
            named = sorted({partition.topic for partition in committed} & known)
            partitions = self._partitions([plain_name(self._kafka, name) for name in named])
            ends = await self._consumer.end_offsets(partitions)
            done = {partition: max(0, meta.offset) for partition, meta in committed.items()}
            lags[plain_name(self._kafka, group)] = sum(end - done.get(place, 0) for place, end in ends.items())
        return lags

    async def letters(
        self, names: Sequence[str] = DEAD_LETTER_TOPICS
    ) -> AsyncIterator[tuple[TopicPartition, int, Letter]]:
        """Every dead letter of these `.dlq` topics up to now, with where it lies; a foreign record is left out.

        Bound it with a timeout: a broker that stops answering is waited for.
        """
        partitions = self._partitions(names)
        begins, ends = await self._consumer.beginning_offsets(partitions), await self._consumer.end_offsets(partitions)
        waiting = {place for place in partitions if ends[place] > begins[place]}
        if not waiting:
            return
        async with _consumer(self._kafka) as reader:
            reader.assign(sorted(waiting))
            for place in waiting:
                reader.seek(place, begins[place])
            while waiting:
                for place, records in (await reader.getmany(timeout_ms=500)).items():
                    for record in records:
                        letter = _letter(record)
                        if letter is not None and record.offset < ends[place]:
                            yield place, record.offset, letter
                waiting = {place for place in waiting if await reader.position(place) < ends[place]}

    def _partitions(self, names: Sequence[str]) -> list[TopicPartition]:
        return [
            TopicPartition(name_of(self._kafka, name), number)
            for name in names
            for number in range(self._kafka.partitions)
        ]


@asynccontextmanager
async def watching(kafka: KafkaSettings) -> AsyncIterator[Watch]:
    """A Watch of the broker in `kafka`. Raises aiokafka's KafkaError when it does not answer."""
    admin = AIOKafkaAdminClient(**client_options(kafka), request_timeout_ms=10_000)
    async with _consumer(kafka) as consumer:
        await admin.start()
        try:
            yield Watch(kafka, consumer, admin)
        finally:
            await admin.close()


@asynccontextmanager
async def _consumer(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(**client_options(kafka), enable_auto_commit=False, request_timeout_ms=10_000)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


def behind(ends: Places, done: Places) -> int:
    """How many records of `ends` are not in `done`."""
    return sum(
        max(0, end - done.get(topic, {}).get(partition, 0))
        for topic, partitions in ends.items()
        for partition, end in partitions.items()
    )


def total(ends: Places, topic: str) -> int:
    return sum(ends[topic].values())


def _letter(record: object) -> Letter | None:
    try:
        return dead_letters.read(record.key, record.value, record.headers)  # type: ignore[attr-defined]
    except ValueError:
        return None
