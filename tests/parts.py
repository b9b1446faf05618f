"""What tests share: free ports, conditions with deadlines, and raw reading and writing of topics."""

import asyncio
import resource
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from shared.kafka import client_options, group_of, name_of
from shared.settings import KafkaSettings
from shared.watched_file import BadFile


def free_port() -> int:
    """A TCP port on the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def refusal_of(path: Path, read: Callable[[Path], object]) -> str:
    """The one sentence about an operator's file that is refused, which names it."""
    with pytest.raises(BadFile) as caught:
        read(path)
    told = str(caught.value)
    assert str(path) in told
    assert "\n" not in told
    return told


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float, what: str) -> None:
    """Wait for a condition; fail with `what` when it does not hold in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Raw:
    """A record as bytes. `partition` None lets the key choose."""

    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


async def produce(settings: KafkaSettings, topic: str, records: Iterable[Raw]) -> list[tuple[int, int]]:
    """Write raw records to a plain topic name; returns each one's (partition, offset) once acknowledged."""
    producer = AIOKafkaProducer(**client_options(settings), acks="all", enable_idempotence=True)
    await producer.start()
    try:
        pending = [
            await producer.send(
                name_of(settings, topic), value=r.value, key=r.key, partition=r.partition, headers=list(r.headers)
            )
            for r in records
        ]
        return [(done.partition, done.offset) for done in [await future for future in pending]]
    finally:
        await producer.stop()


async def read_topic(settings: KafkaSettings, topic: str) -> list[ConsumerRecord]:
    """Every record that is in a plain topic name now, in order per partition."""
    consumer = AIOKafkaConsumer(**client_options(settings), auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    try:
        name = name_of(settings, topic)
        partitions = [TopicPartition(name, p) for p in range(settings.partitions)]
        consumer.assign(partitions)
        end = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        records: list[ConsumerRecord] = []
        while any([await consumer.position(tp) < end[tp] for tp in partitions]):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                records.extend(batch)
        return records
    finally:
        await consumer.stop()


async def committed(settings: KafkaSettings, group: str, topic: str) -> dict[int, int]:
    """The offsets that a group has committed for a plain topic name, by partition; 0 where it has none."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        partitions = [TopicPartition(name_of(settings, topic), p) for p in range(settings.partitions)]
        offsets = await admin.list_consumer_group_offsets(group_of(settings, group), partitions=partitions)
        return {tp.partition: max(offsets[tp].offset, 0) if tp in offsets else 0 for tp in partitions}
    finally:
        await admin.close()


@contextmanager
def full_disk(file_bytes: int, pid: int = 0) -> Iterator[None]:
    """No file of the process (0: this one) can grow beyond so many bytes: a write then fails with EFBIG, where a full
    disk says ENOSPC, and leaves the file cut off, as a full disk does.
    """
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (file_bytes, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
