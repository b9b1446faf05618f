"""The feed: item-states and erasures, read by every replica from all partitions, without a group.

item-states is compacted, so reading it from the beginning gives every item of the catalogue. `start` returns
when everything that was there at the start has been read; `run` follows what comes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from services.ranking import backoff, metrics
from shared import events, kafka, logs, topics
from shared.events import Erasure, InvalidEvent, ItemState
from shared.service import Heartbeat
from shared.settings import KafkaSettings

log = logs.get(__name__)
TOPICS: Final = (topics.ITEM_STATES, topics.ERASURES)
POLL_MS: Final = 1000
POLL_RECORDS: Final = 2000

Tell = Callable[..., Awaitable[None]]  # (states, *, live)
Forget = Callable[[str], None]  # (user_id)


class Feed:
    def __init__(self, settings: KafkaSettings, tell: Tell, forget: Forget) -> None:
        self._settings = settings
        self._tell = tell
        self._forget = forget
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self, heart: Heartbeat | None = None) -> None:
        """Read everything that is there now. Backs off while Kafka does not answer."""
        for wait in backoff.delays():
            try:
                consumer, ends = await self._connect()
                break
            except (KafkaError, OSError) as error:
                log.warning("item-states cannot be read yet", error=type(error).__name__)
                await asyncio.sleep(wait)
        self._consumer = consumer
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            await self._step(consumer, live=False)
            if heart:
                heart.beat()

    async def run(self, heart: Heartbeat | None = None) -> None:
        """Follow the topics for ever."""
        if self._consumer is None:
            raise RuntimeError("the feed has not been started")
        waits = backoff.delays()
        while True:
            try:
                await self._step(self._consumer, live=True)
                waits = backoff.delays()
            except KafkaError as error:
                log.warning("item-states cannot be read", error=type(error).__name__)
                await asyncio.sleep(next(waits))
            if heart:
                heart.beat()

    async def stop(self) -> None:
        if self._consumer is not None:
            with suppress(KafkaError):
                await self._consumer.stop()

    async def _connect(self) -> tuple[AIOKafkaConsumer, dict[TopicPartition, int]]:
        consumer = AIOKafkaConsumer(
            **kafka.client_options(self._settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            await consumer.start()
            partitions = [
                TopicPartition(kafka.name_of(self._settings, topic), partition)
                for topic in TOPICS
                for partition in range(self._settings.partitions)
            ]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            await consumer.seek_to_beginning(*partitions)
        except BaseException:
            await consumer.stop()
            raise
        return consumer, ends

    async def _step(self, consumer: AIOKafkaConsumer, *, live: bool) -> None:
        by_partition = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
        records = [record for some in by_partition.values() for record in some]
        if records:
            await self._take(records, live)

    async def _take(self, records: Sequence["ConsumerRecord[Any, Any]"], live: bool) -> None:
        found = [event for event in (self._decoded(record) for record in records) if event is not None]
        for event in found:
            if isinstance(event, Erasure):
                self._forget(event.user_id)
        states = [event for event in found if isinstance(event, ItemState)]
        if states:
            await self._tell(states, live=live)

    def _decoded(self, record: "ConsumerRecord[Any, Any]") -> events.Event | None:
        try:
            return events.decode(kafka.plain_name(self._settings, record.topic), record.value)
        except InvalidEvent as error:
            metrics.INVALID_STATES.inc()
            log.warning("a record was passed over", topic=record.topic, offset=record.offset, reason=error.reason)
            return None
