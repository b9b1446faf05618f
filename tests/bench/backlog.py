"""How many events a second the trainer reads from the archive, against a bare Kafka consumer that decodes them.

200,000 interactions, once as Parquet that the archiver's own writer has laid out, and once in 4 partitions of an
embedded broker. The trainer's reading is what its job does before it trains: decode and validate, deduplicate by
event id, apply erasures, and order by user and by item, in a file on disk. The baseline does none but the decoding.
Every contender runs in a process of its own, in turn with the others, twice; the best run counts.
"""

import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from services.archiver.settings import ArchiverSettings
from services.archiver.sift import Record
from services.archiver.writer import Writer
from services.trainer.main import TOPICS
from shared import archive, topics
from shared.archive import Store
from shared.events import Interaction
from shared.kafka import client_options
from shared.models import log_store
from shared.settings import KafkaSettings
from shared.space import DEFAULT_SPACE
from tests.bench.alone import RATE, Numbers, best
from tests.bench.figure import Figure, figure
from tests.bench.filled import PARTITIONS, broker, clicks, kafka

EVENTS: Final = 200_000
GOAL: Final = 0.5
APPENDED_AT: Final = 1.7e9
WHAT: Final = (
    "events/s of the trainer's reading of the Parquet archive (decoded, validated, deduplicated, ordered by user and "
    "by item on disk; goal as a number: 150,000) against aiokafka's getmany with msgspec decoding of the same events"
)


def figures() -> list[Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="finestream-bench-") as url,
        broker({topics.INTERACTIONS: clicks(EVENTS)}) as bootstrap,
    ):
        write_archive(url, EVENTS)
        runs = best({
            "ours": (trainer, url, EVENTS),
            "baseline": (consumer, bootstrap, EVENTS),
            "decoded": (decoded, url, EVENTS),
            "rows": (rows, url, EVENTS),
        })  # fmt: skip
    parts = {
        f"the archive read, decoded and validated alone, {RATE}": runs["decoded"][RATE],
        f"the archive's rows alone, {RATE}": runs["rows"][RATE],
    }
    return [figure("backlog", WHAT, runs["ours"][RATE], runs["baseline"][RATE], RATE, goal=GOAL, parts=parts)]


def write_archive(url: str, count: int) -> None:
    """As an archiver with its default settings writes it."""
    settings = ArchiverSettings()
    writer = Writer(Store(url), compact_files=settings.compact_files, small_file_bytes=settings.small_file_bytes)
    writer.open()
    numbered = (
        Record(topics.INTERACTIONS, raw.partition or 0, n // PARTITIONS, APPENDED_AT, raw.key, raw.value)
        for n, raw in enumerate(clicks(count))
    )
    while flushed := list(islice(numbered, settings.flush_rows)):
        writer.append(flushed)
        writer.compact()


def trainer(url: str, count: int) -> Numbers:
    """What services/trainer/main.py does before it trains."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="finestream-bench-") as spool:
        events = (event for event, _ in archive.events_of(url, TOPICS))
        log = log_store.write(Path(spool), events, DEFAULT_SPACE)
        return _numbers(log.interactions, count, started)


def decoded(url: str, count: int) -> Numbers:
    """The same without the log on disk."""
    started = time.perf_counter()
    return _numbers(sum(1 for _ in archive.events_of(url, TOPICS)), count, started)


def rows(url: str, count: int) -> Numbers:
    """The same without decoding."""
    started = time.perf_counter()
    return _numbers(sum(1 for _ in archive.read(url, TOPICS)), count, started)


def _numbers(found: int, count: int, started: float) -> Numbers:
    assert found == count, f"{found} of {count} events were read"
    return {RATE: count / (time.perf_counter() - started)}


def consumer(bootstrap: str, count: int) -> Numbers:
    """A consumer without a group: assigned all partitions, nothing committed, nothing validated but types."""
    return uvloop.run(_receive(kafka(bootstrap), count))


async def _receive(settings: KafkaSettings, count: int) -> Numbers:
    reader = AIOKafkaConsumer(**client_options(settings), auto_offset_reset="earliest", enable_auto_commit=False)
    decode = msgspec.json.Decoder(Interaction).decode
    await reader.start()
    try:
        # From the first fetch on, not from the first delivery: the embedded broker answers a fetch with all there is.
        started, found = time.perf_counter(), 0
        reader.assign([TopicPartition(topics.INTERACTIONS, p) for p in range(PARTITIONS)])
        while found < count:
            for batch in (await reader.getmany(timeout_ms=1000)).values():
                found += len([decode(record.value) for record in batch])
        return _numbers(found, count, started)
    finally:
        await reader.stop()
