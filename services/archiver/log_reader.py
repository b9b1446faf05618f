"""The Kafka side: every record of this worker's partitions from a given offset on, without a consumer group."""

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from services.archiver.sift import Record
from shared import kafka
from shared.settings import KafkaSettings

Place = tuple[str, int]  # topic (its plain name), partition
MAX_RECORDS: Final = 5_000
REQUEST_MS: Final = 10_000


class LogMoved(Exception):
    """A partition no longer holds the offset that was asked for."""


class LogReader:
    """Reads places by manual assignment: the manifest, not a group, says how far the archive is.

    What is fetched ahead is bounded by 1 MiB a partition; nothing is fetched while nobody polls.
    """

    def __init__(self, settings: KafkaSettings, places: Iterable[Place]) -> None:
        self._settings = settings
        self._assigned = {TopicPartition(kafka.name_of(settings, topic), p): (topic, p) for topic, p in places}
        self._consumer: Any = None

    @property
    def places(self) -> list[Place]:
        return list(self._assigned.values())

    async def start(self) -> None:
        self._consumer = AIOKafkaConsumer(
            **kafka.client_options(self._settings), group_id=None, enable_auto_commit=False, auto_offset_reset="none",
            max_partition_fetch_bytes=1024 * 1024, fetch_max_wait_ms=200, request_timeout_ms=REQUEST_MS,
        )  # fmt: skip
        await self._consumer.start()
        self._consumer.assign(list(self._assigned))

    async def stop(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()

    def seek(self, offsets: Mapping[Place, int]) -> None:
        for assigned, place in self._assigned.items():
            if place in offsets:
                self._consumer.seek(assigned, offsets[place])

    async def poll(self, timeout_seconds: float) -> list[Record]:
        """At most MAX_RECORDS, in order per partition. Raises LogMoved."""
        try:
            fetched = await self._consumer.getmany(timeout_ms=int(timeout_seconds * 1000), max_records=MAX_RECORDS)
        except OffsetOutOfRangeError as error:
            raise LogMoved(str(error)) from error
        return [
            Record(*self._assigned[assigned], record.offset, _seconds(record.timestamp), record.key, record.value)
            for assigned, records in fetched.items()
            for record in records
        ]

    async def bounds(self) -> dict[Place, tuple[int, int]]:
        """The first offset that each partition holds, and the one that its next record will have."""
        first = await self._consumer.beginning_offsets(list(self._assigned))
        end = await self._consumer.end_offsets(list(self._assigned))
        return {place: (first[assigned], end[assigned]) for assigned, place in self._assigned.items()}

    async def first_after(self, place: Place, seconds: float) -> int | None:
        """The first offset whose record was appended later than `seconds`; None where there is none."""
        assigned = TopicPartition(kafka.name_of(self._settings, place[0]), place[1])
        found = await self._consumer.offsets_for_times({assigned: round(seconds * 1000) + 1})
        return None if found.get(assigned) is None else int(found[assigned].offset)


def _seconds(timestamp_ms: int) -> float:
    # -1: a record of a producer too old to stamp it, on a topic that lets the producer do so.
    return timestamp_ms / 1000.0 if timestamp_ms >= 0 else time.time()
