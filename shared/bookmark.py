"""How far a job has read: kept in Kafka, as the offsets of a group that nobody is a member of."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.kafka import client_options, name_of
from shared.log_tail import Places, named
from shared.settings import KafkaSettings


class Bookmark:
    def __init__(self, kafka: KafkaSettings, consumer: AIOKafkaConsumer) -> None:
        self._kafka = kafka
        self._consumer = consumer

    async def read(self, names: Sequence[str]) -> Places:
        """The next offset to read of each partition that is marked."""
        places: Places = {}
        for name in names:
            for partition in range(self._kafka.partitions):
                marked = await self._consumer.committed(TopicPartition(name_of(self._kafka, name), partition))
                if marked is not None:
                    places.setdefault(name, {})[partition] = marked
        return places

    async def write(self, places: Places) -> None:
        """Raises aiokafka's CommitFailedError where the group has members: then they say where it is."""
        offsets = named(self._kafka, places)
        if not offsets:
            return
        self._consumer.assign(list(offsets))
        await self._consumer.commit(offsets)


@asynccontextmanager
async def bookmark(kafka: KafkaSettings, group: str) -> AsyncIterator[Bookmark]:
    """`group`: its name on the broker. Raises aiokafka's KafkaError when the broker does not answer."""
    consumer = AIOKafkaConsumer(**client_options(kafka), group_id=group, enable_auto_commit=False)
    try:
        await consumer.start()
        yield Bookmark(kafka, consumer)
    finally:
        await consumer.stop()
