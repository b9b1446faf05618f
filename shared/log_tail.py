"""Records of Kafka between two offsets, read without a group: nobody's place is moved by it."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.dead_letters import Record
from shared.errors import Unavailable
from shared.events import Source
from shared.kafka import client_options, name_of, plain_name
from shared.service import WrongSetting
from shared.settings import KafkaSettings

Places = dict[str, dict[int, int]]  # topic (its plain name) -> partition -> offset
FETCH_MS: Final = 500
SILENT_SECONDS: Final = 30.0  # of a broker that has records and gives none


class LogTail:
    """Topic names are the plain ones. One reading at a time."""

    def __init__(self, kafka: KafkaSettings, consumer: AIOKafkaConsumer) -> None:
        self._kafka = kafka
        self._consumer = consumer

    @property
    def space(self) -> str:
        return self._kafka.space

    async def firsts(self, names: Sequence[str]) -> Places:
        """The first offset that each partition still holds."""
        return self._places(await self._consumer.beginning_offsets(self._partitions(names)))

    async def ends(self, names: Sequence[str]) -> Places:
        """The next offset of each partition."""
        return self._places(await self._consumer.end_offsets(self._partitions(names)))

    async def check_partitions(self, names: Sequence[str]) -> None:
        """Raises WrongSetting where a topic has more or fewer than are set: some would go unread."""
        # The metadata come with an answer about a partition that every topic has.
        await self._consumer.end_offsets([TopicPartition(name_of(self._kafka, name), 0) for name in names])
        for name in names:
            found = len(self._consumer.partitions_for_topic(name_of(self._kafka, name)) or ())
            if found != self._kafka.partitions:
                raise WrongSetting(
                    f"topic {name} has {found} partitions but FINESTREAM_KAFKA_PARTITIONS is {self._kafka.partitions}"
                )

    async def read(self, begin: Places, end: Places) -> AsyncIterator[Record]:
        """Everything from `begin` (absent: 0) to before `end`, in order per partition.

        Raises Unavailable when the broker falls silent, aiokafka's KafkaError when an offset is gone.
        """
        begins, ends = named(self._kafka, begin), named(self._kafka, end)
        waiting = {place for place, offset in ends.items() if begins.get(place, 0) < offset}
        if not waiting:
            # Nothing is assigned for nothing: a consumer that is stopped while it drops an older assignment swallows
            # its cancellation and never ends (aiokafka 0.14).
            return
        self._seek({place: begins.get(place, 0) for place in waiting})
        heard = time.monotonic()
        while waiting:
            fetched = await self._consumer.getmany(timeout_ms=FETCH_MS)
            for place, records in fetched.items():
                for record in records:
                    if record.offset < ends[place]:
                        yield self._record(record)
            heard = time.monotonic() if fetched else heard
            # By position and not by record: what ends a transaction, or was compacted away, is never given.
            waiting = {place for place in waiting if await self._consumer.position(place) < ends[place]}
            if waiting and time.monotonic() - heard > SILENT_SECONDS:
                raise Unavailable(f"Kafka at {self._kafka.bootstrap} has given nothing for {SILENT_SECONDS:.0f} s")

    def _seek(self, places: Mapping[TopicPartition, int]) -> None:
        self._consumer.assign(sorted(places))
        for place, offset in places.items():
            self._consumer.seek(place, offset)

    def _record(self, record: Any) -> Record:
        topic = plain_name(self._kafka, record.topic)
        # -1: a record of a producer too old to stamp it, on a topic that lets the producer do so.
        appended_at = record.timestamp / 1000.0 if record.timestamp >= 0 else time.time()
        source = Source(topic, record.partition, record.offset, appended_at)
        return Record(source, record.key, record.value, tuple(record.headers))

    def _partitions(self, names: Sequence[str]) -> list[TopicPartition]:
        return [
            TopicPartition(name_of(self._kafka, name), number)
            for name in names
            for number in range(self._kafka.partitions)
        ]

    def _places(self, offsets: Mapping[TopicPartition, int]) -> Places:
        places: Places = {}
        for place, offset in offsets.items():
            places.setdefault(plain_name(self._kafka, place.topic), {})[place.partition] = offset
        return places


def named(kafka: KafkaSettings, places: Places) -> dict[TopicPartition, int]:
    """As aiokafka wants them: by partition, with the topic's name on the broker."""
    return {
        TopicPartition(name_of(kafka, topic), partition): offset
        for topic, offsets in places.items()
        for partition, offset in offsets.items()
    }


@asynccontextmanager
async def tailing(kafka: KafkaSettings) -> AsyncIterator[LogTail]:
    """A LogTail of the broker in `kafka`. Raises aiokafka's KafkaError when it does not answer."""
    consumer = AIOKafkaConsumer(
        **client_options(kafka), enable_auto_commit=False, auto_offset_reset="none", request_timeout_ms=10_000
    )
    try:
        await consumer.start()
        yield LogTail(kafka, consumer)
    finally:
        await consumer.stop()
