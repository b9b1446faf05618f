"""Kafka as every service sees it: names, client options, topics that exist, and a producer that waits for acks."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    InvalidProducerEpoch,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.partitioner import DefaultPartitioner, murmur2

from shared import events, fetch_pause, logs, topics
from shared.errors import InvalidRequest, Unavailable
from shared.events import Event, Source
from shared.service import WrongSetting
from shared.settings import KafkaSettings

Headers = Sequence[tuple[str, bytes]]
START_SECONDS = 60.0
SEND_SECONDS = 15.0
HOUR_MS = 3_600_000
HASHED_KEYS = 100_000
BATCH_BYTES = 256 * 1024
MAX_RECORD_BYTES = 1_000_000  # a little less than what brokers and aiokafka take by default
LOST_COUNT = (OutOfOrderSequenceNumber, InvalidProducerEpoch)
T = TypeVar("T")
log = logs.get(__name__)
fetch_pause.install()  # every client gets its options here, so every consumer is paced


def name_of(settings: KafkaSettings, topic: str) -> str:
    """A topic's name on the broker: with the operator's prefix, and in the space of these settings."""
    return settings.topic_prefix + topics.in_space(topic, settings.space)


def plain_name(settings: KafkaSettings, name: str) -> str:
    """The inverse of name_of."""
    return topics.plain(name.removeprefix(settings.topic_prefix), settings.space)


def group_of(settings: KafkaSettings, name: str) -> str:
    """A consumer group's name on the broker: each space reads for itself."""
    return f"{settings.topic_prefix}{name}.{settings.space}"


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """Address and security, for any aiokafka client."""
    options: dict[str, Any] = {"bootstrap_servers": settings.bootstrap, "security_protocol": settings.security}
    if settings.security in ("SSL", "SASL_SSL"):
        options["ssl_context"] = ssl_context(settings)
    if settings.security.startswith("SASL"):
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return options


def ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    """Raises WrongSetting when a file is missing or no certificate."""
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        if settings.tls_certificate:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise WrongSetting(f"FINESTREAM_KAFKA_TLS_*: {error}") from None
    return context


async def ensure_topics(settings: KafkaSettings) -> None:
    """Create every topic and its dead letters with the set partition count; wait for the broker to be there.

    Raises WrongSetting when an existing topic has another count (facts of one node would meet in two workers),
    Unavailable when no broker has answered all of it within START_SECONDS.
    """
    delay, started = 0.1, time.monotonic()
    while True:
        try:
            async with asyncio.timeout(START_SECONDS):
                return await _ensure_topics(settings)
        except (KafkaError, OSError, TimeoutError) as error:
            if time.monotonic() - started > START_SECONDS * 0.8:
                raise Unavailable(f"no Kafka answers at {settings.bootstrap}: {type(error).__name__}") from error
            log.info("waiting for Kafka", bootstrap=settings.bootstrap, error=type(error).__name__)
        await asyncio.sleep(delay)
        delay = min(delay * 2, 2.0)


async def _ensure_topics(settings: KafkaSettings) -> None:
    admin = AIOKafkaAdminClient(**client_options(settings), request_timeout_ms=10_000)
    try:
        await admin.start()
        wanted = [_new_topic(settings, topic, name) for topic in topics.ALL for name in _names(topic)]
        existing = set(await admin.list_topics())
        await _create(admin, [topic for topic in wanted if topic.name not in existing])
        await _check_partitions(admin, settings, [topic.name for topic in wanted])
    finally:
        await admin.close()


def _names(topic: topics.Topic) -> list[str]:
    return [topic.name, topics.dead_letters(topic.name)] if topic.dead_letters else [topic.name]


def _new_topic(settings: KafkaSettings, topic: topics.Topic, name: str) -> NewTopic:
    retention_ms = str(settings.retention_hours * HOUR_MS)
    config = {"message.timestamp.type": "LogAppendTime"}  # freshness is measured from what the broker says
    if name != topic.name:  # dead letters: of forgotten users they are taken back, and must then be gone in a day
        config |= {
            "cleanup.policy": "compact,delete", "retention.ms": retention_ms, "delete.retention.ms": retention_ms,
            "max.compaction.lag.ms": str(24 * HOUR_MS),
        }  # fmt: skip
    elif topic.compact:
        config["cleanup.policy"] = "compact"
    else:
        config |= {"cleanup.policy": "delete", "retention.ms": retention_ms}
    return NewTopic(name_of(settings, name), settings.partitions, settings.replication, topic_configs=config)


async def _create(admin: AIOKafkaAdminClient, missing: list[NewTopic]) -> None:
    if not missing:
        return
    response = await admin.create_topics(missing)
    for name, code, *detail in response.topic_errors:
        # Another service may have been faster.
        if code not in (0, TopicAlreadyExistsError.errno):
            raise WrongSetting(f"topic {name} cannot be created: {for_code(code).__name__} {detail}")


async def _check_partitions(admin: AIOKafkaAdminClient, settings: KafkaSettings, names: list[str]) -> None:
    for topic in await admin.describe_topics(names):
        count = len(topic["partitions"])
        if count and count != settings.partitions:
            raise WrongSetting(
                f"topic {topic['topic']} has {count} partitions but FINESTREAM_KAFKA_PARTITIONS is"
                f" {settings.partitions}; every topic needs the same count, set it to {count} or recreate the topic"
            )


class Producer:
    """An idempotent producer whose send returns after the broker's acknowledgement (acks=all)."""

    def __init__(self, settings: KafkaSettings, *, linger_ms: int = 0) -> None:
        self._settings = settings
        self._linger_ms = linger_ms
        self._producer: AIOKafkaProducer | None = None
        self._partition_of = _Partitioner()
        self._renewing = asyncio.Lock()

    async def start(self) -> None:
        self._producer = await self._started()

    async def stop(self) -> None:
        """Sends what is still buffered."""
        if self._producer is not None:
            await self._producer.stop()

    async def _started(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **client_options(self._settings), acks="all", enable_idempotence=True, linger_ms=self._linger_ms,
            max_batch_size=BATCH_BYTES, request_timeout_ms=10_000, partitioner=self._partition_of,
        )  # fmt: skip
        await producer.start()
        return producer

    async def send(self, topic: str, event: Event, headers: Headers = ()) -> Source:
        """Write one event; returns where it lies. Raises Unavailable when the broker does not answer in time."""
        return await self.send_raw(topic, events.key_of(event), events.encode(event), headers)

    async def send_all(self, batch: Sequence[tuple[str, Event]]) -> list[Source]:
        """Write many events, in order per partition, and wait for all of them. Raises as send."""
        if not batch:
            return []
        packs = await self._pack([(topic, events.key_of(event), events.encode(event)) for topic, event in batch])
        futures = [await _taken(self._send_pack(pack)) for pack in packs]
        written: dict[int, Source] = {}
        for pack, first in zip(packs, await self._acknowledged(futures), strict=True):
            written |= pack.written(first)
        return [written[index] for index in range(len(batch))]

    async def send_raw(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> Source:
        """As send, for bytes that are passed on as they came (dead letters)."""
        name = name_of(self._settings, topic)
        future = await _taken(self._running.send(name, value=value, key=key, headers=list(headers)))
        [placed] = await self._acknowledged([future])
        return Source(topic, placed.partition, placed.offset, placed.timestamp / 1000.0)

    async def _acknowledged(self, futures: Sequence[asyncio.Future[Any]]) -> list[Any]:
        used = self._running
        try:
            return await _acknowledged(futures)
        except Unavailable as error:
            if isinstance(error.__cause__, LOST_COUNT):
                await self._renew(used)
            raise

    async def _renew(self, used: AIOKafkaProducer) -> None:
        """aiokafka counts on after a batch that was given up, and the broker then refuses all that follows."""
        async with self._renewing:
            another_was_faster = self._producer is not used
            if another_was_faster:
                return
            log.warning("the broker lost count of what this producer sent; it is made anew")
            try:
                self._producer = await self._started()
            except (KafkaError, OSError) as error:
                log.warning("a new producer could not be started yet", error=type(error).__name__)
                return
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await used.stop()
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("the old producer did not stop cleanly", error=type(error).__name__)

    @property
    def _running(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise RuntimeError("the producer has not been started")
        return self._producer

    async def _pack(self, records: Sequence[tuple[str, bytes, bytes]]) -> list["_Pack"]:
        """Batches as the broker takes them: record by record, each with its future, aiokafka takes twice the time."""
        partitions = {topic: await self._partitions(topic) for topic in {topic for topic, _, _ in records}}
        stamp = int(time.time() * 1000)
        packs: list[_Pack] = []
        open_packs: dict[tuple[str, int], _Pack] = {}
        for index, (topic, key, value) in enumerate(records):
            if len(key) + len(value) > MAX_RECORD_BYTES:
                raise InvalidRequest(f"the record is too large for Kafka: {len(value)} bytes")
            partition = self._partition_of(key, partitions[topic], partitions[topic])
            pack = open_packs.get((topic, partition))
            if pack is None or not pack.add(index, key, value):
                pack = open_packs[topic, partition] = _Pack(topic, partition, stamp, self._running.create_batch())
                pack.add(index, key, value)  # the first always fits
                packs.append(pack)
        return packs

    def _send_pack(self, pack: "_Pack") -> Awaitable[asyncio.Future[Any]]:
        name = name_of(self._settings, pack.topic)
        return self._running.send_batch(pack.builder, name, partition=pack.partition)  # type: ignore[no-any-return]

    async def _partitions(self, topic: str) -> list[int]:
        return sorted(await _taken(self._running.partitions_for(name_of(self._settings, topic))))


@dataclass(slots=True)
class _Pack:
    """Records of one partition that are written together."""

    topic: str  # its plain name
    partition: int
    stamp: int  # ms since 1970
    builder: Any
    indices: list[int] = field(default_factory=list)  # of its records in what is sent

    def add(self, index: int, key: bytes, value: bytes) -> bool:
        """False where it is full."""
        if self.builder.append(timestamp=self.stamp, key=key, value=value) is None:
            return False
        self.indices.append(index)
        return True

    def written(self, first: Any) -> dict[int, Source]:
        """Where each record lies, by its index; `first` is the acknowledgement of the first one."""
        stamp = self.stamp if first.timestamp < 0 else first.timestamp  # -1: the topic keeps the producer's
        return {
            index: Source(self.topic, self.partition, first.offset + n, stamp / 1000.0)
            for n, index in enumerate(self.indices)
        }


async def _taken(call: Awaitable[T]) -> T:
    """What aiokafka answers when it has taken something, which it does not while it is full or has no metadata."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            return await call
    except MessageSizeTooLargeError as error:
        raise InvalidRequest(f"the record is too large for Kafka: {error}") from error
    except (KafkaError, TimeoutError) as error:
        raise Unavailable(f"Kafka did not take the record: {type(error).__name__}") from error


async def _acknowledged(futures: Sequence[asyncio.Future[Any]]) -> list[Any]:
    # Not cancelled with us: what is in flight may be written in any case.
    _, late = await asyncio.wait(futures, timeout=SEND_SECONDS)
    if late:
        raise Unavailable(f"Kafka did not acknowledge the record: {len(late)} of {len(futures)} are late")
    failed = [error for future in futures if (error := future.exception()) is not None]
    if failed:
        raise Unavailable(f"Kafka did not acknowledge the record: {type(failed[0]).__name__}") from failed[0]
    return [future.result() for future in futures]


class _Partitioner(DefaultPartitioner):  # type: ignore[misc]  # aiokafka has no types
    """Kafka's own, remembered: aiokafka hashes in Python, 10 us a key."""

    def __init__(self) -> None:
        self._hash = lru_cache(maxsize=HASHED_KEYS)(murmur2)

    def __call__(self, key: bytes | None, all_partitions: list[int], available: list[int]) -> int:
        if key is None:
            return int(super().__call__(key, all_partitions, available))
        return all_partitions[(int(self._hash(key)) & 0x7FFFFFFF) % len(all_partitions)]
