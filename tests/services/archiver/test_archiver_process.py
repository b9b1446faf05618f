"""The archiver as its own process over a broker: killed anywhere, every offset is archived exactly once."""

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared import archive, topics
from shared.events import Erasure, Event, Interaction, encode, key_of
from shared.kafka import Producer, ensure_topics
from shared.local.broker import Broker
from shared.settings import KafkaSettings
from tests.parts import Raw, free_port, produce, read_topic, until
from tests.running import Running
from tests.services.archiver.records import facts_of

pytestmark = pytest.mark.e2e

Start = Callable[..., Running]


@pytest.fixture
def start(kafka_environment: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("FINESTREAM_ARCHIVE_URL", str(tmp_path / "archive"))
    monkeypatch.setenv("FINESTREAM_ARCHIVER_FLUSH_SECONDS", "0.1")
    monkeypatch.setenv("FINESTREAM_ARCHIVER_COMPACT_FILES", "3")
    monkeypatch.setenv("FINESTREAM_ARCHIVER_LAG_CHECK_SECONDS", "0.2")
    started: list[Running] = []

    def starting(**environment: str) -> Running:
        started.append(Running("archiver", tmp_path, **environment))
        return started[-1]

    yield starting
    for running in started:
        if running.process.poll() is None:
            running.kill()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "archive")


def clicks(count: int, prefix: str = "") -> list[Event]:
    return [
        Interaction(event_id=f"{prefix}{n}", user_id=f"u{n % 53}", item_id=f"i{n % 17}", ts=1e9) for n in range(count)
    ]


def raw(found: list[Event]) -> list[Raw]:
    return [Raw(key_of(event), encode(event)) for event in found]


async def archived_all(settings: KafkaSettings, url: str, topic: str) -> bool:
    """Whether the archive's offsets are at the end of the topic."""
    ends = {record.partition: record.offset + 1 for record in await read_topic(settings, topic)}
    return bool(ends) and archive.offsets(url).get(topic, {}) == ends


async def same_as_kafka(settings: KafkaSettings, url: str, topic: str) -> None:
    records = await read_topic(settings, topic)
    await until(lambda: archived_all(settings, url, topic), 30, f"{topic} is archived to its end")
    kept = [(row.partition, row.offset, row.key, row.value) for row in archive.read(url, [topic])]
    assert sorted(kept) == sorted((r.partition, r.offset, r.key, r.value) for r in records)


async def test_every_archived_topic_is_copied_and_the_rest_flushed_at_a_stop(
    start: Start, kafka_settings: KafkaSettings, producer: Producer, url: str
) -> None:
    archiver = start(FINESTREAM_ARCHIVER_FLUSH_SECONDS="60").ready()
    for topic, event in facts_of("ann", 1e9).items():
        await producer.send_all([(topic, event)] * 3)
    await until(
        lambda: archiver.metric("finestream_archiver_buffered_bytes") > 15 * 256, 20, "all records have been read"
    )
    assert archiver.stop() == 0, archiver.log
    for topic in facts_of("ann", 1e9):
        await same_as_kafka(kafka_settings, url, topic)


async def test_killed_mid_stream_again_and_again_every_offset_is_archived_exactly_once(
    start: Start, kafka_settings: KafkaSettings, producer: Producer, url: str
) -> None:
    rng, enough, sent = random.Random(7), asyncio.Event(), 0

    async def write() -> None:
        nonlocal sent
        while not enough.is_set():
            await producer.send_all([(topics.INTERACTIONS, event) for event in clicks(50, f"{sent}-")])
            sent += 50
            await asyncio.sleep(0.01)  # a pace, so that the stream outlasts the kills

    writing = asyncio.create_task(write())
    for _ in range(4):
        archiver = start(FINESTREAM_ARCHIVER_FLUSH_SECONDS="0.02")
        await asyncio.to_thread(archiver.ready)
        await asyncio.sleep(rng.random() * 0.4)  # where the kill falls is what varies; nothing is waited for
        archiver.kill()
    enough.set()
    await writing
    start().ready()
    await same_as_kafka(kafka_settings, url, topics.INTERACTIONS)
    store = archive.Store(url)
    await until(lambda: len(store.names("topic=interactions/day=*/*")) <= 6, 20, "small files are merged")
    assert sum(1 for _ in archive.events_of(url, [topics.INTERACTIONS])) == sent


async def test_a_broker_that_lost_its_log_does_not_stop_the_archive(
    start: Start, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    first, second = Broker(tmp_path / "first", port), Broker(tmp_path / "second", port)
    monkeypatch.setenv("FINESTREAM_KAFKA_BOOTSTRAP", first.bootstrap)
    settings = KafkaSettings()
    # The second one knows the topics beforehand: a client that asks for a missing one makes it, with one partition.
    prepared = Broker(tmp_path / "second", free_port())
    await prepared.start()
    await ensure_topics(settings.model_copy(update={"bootstrap": prepared.bootstrap}))
    prepared.stop()
    await first.start()
    try:
        await ensure_topics(settings)
        archiver = start().ready()
        await produce(settings, topics.INTERACTIONS, raw(clicks(200, "old")))
        await until(lambda: len(list(archive.read(url, [topics.INTERACTIONS]))) == 200, 20, "the old are archived")
        first.stop()
        await second.start()  # with nothing of what the first had acknowledged
        await produce(settings, topics.INTERACTIONS, raw(clicks(20, "new")))
        await until(lambda: len(list(archive.read(url, [topics.INTERACTIONS]))) == 220, 30, "the new are archived")
    finally:
        first.stop()
        second.stop()
    assert archiver.metric("finestream_archiver_offset_resets_total", reason="log_end_behind") >= 1
    assert archiver.process.poll() is None
    assert archiver.logged("(the broker lost records)")


async def test_what_does_not_decode_is_skipped_and_counted_and_the_stream_goes_on(
    start: Start, kafka_settings: KafkaSettings, url: str
) -> None:
    archiver = start().ready()
    (good,) = raw(clicks(1))
    bad = [b"", b"{", b"[]", b"{}", b'{"event_id": 1}', "ü".encode("latin-1")]
    await produce(kafka_settings, topics.INTERACTIONS, [*(Raw(good.key, value) for value in bad), good])
    await until(lambda: archived_all(kafka_settings, url, topics.INTERACTIONS), 20, "the good one is archived")
    assert [row.value for row in archive.read(url, topics.ARCHIVED)] == [good.value]
    skipped = [
        archiver.metric("finestream_archiver_skipped_total", topic="interactions", reason=reason)
        for reason in ("not_json", "wrong_type", "missing_field")
    ]
    assert sum(skipped) == len(bad)


async def test_an_erasure_removes_what_is_archived_and_what_comes_late(
    start: Start, kafka_settings: KafkaSettings, producer: Producer, url: str
) -> None:
    start().ready()
    ann, bob = ([(topic, event) for topic, event in facts_of(user, 1e9).items()] for user in ("ann", "bob"))
    await producer.send_all([*ann, *bob])
    await until(lambda: len(list(archive.read(url, topics.ARCHIVED))) == 10, 20, "the facts are archived")
    await producer.send_all([(topics.ERASURES, Erasure(user_id="ann", erased_at=1.5e9)), *ann])
    for topic, _ in ann:
        await until(lambda: archived_all(kafka_settings, url, topic), 20, f"{topic} is archived")  # noqa: B023
    left = list(archive.read(url, topics.ARCHIVED))
    assert [row.key for row in left if b'"ann"' in row.value] == [b"ann"], "only the erasure itself names her"
    assert len([row for row in left if row.user_id == "bob"]) == 5


async def test_a_reader_sees_every_record_once_while_the_archiver_writes_and_merges(
    start: Start, kafka_settings: KafkaSettings, url: str
) -> None:
    start(FINESTREAM_ARCHIVER_FLUSH_ROWS="50").ready()
    writing = asyncio.create_task(produce(kafka_settings, topics.INTERACTIONS, raw(clicks(20_000))))
    seen = 0
    async with asyncio.timeout(60):
        while seen < 20_000:
            offsets, places = await asyncio.to_thread(_read_twice, url)
            assert len(places) == len(set(places))
            assert len(places) >= sum(offsets.get(topics.INTERACTIONS, {}).values()), "less than the manifest said"
            seen = len(places)
    await writing


def _read_twice(url: str) -> tuple[dict[str, dict[int, int]], list[tuple[int, int]]]:
    return archive.offsets(url), [(row.partition, row.offset) for row in archive.read(url, [topics.INTERACTIONS])]


async def test_workers_share_the_partitions(start: Start, kafka_settings: KafkaSettings, url: str) -> None:
    for worker in "01":
        start(FINESTREAM_ARCHIVER_WORKERS="2", FINESTREAM_ARCHIVER_WORKER=worker).ready()
    await produce(kafka_settings, topics.INTERACTIONS, raw(clicks(500)))
    await same_as_kafka(kafka_settings, url, topics.INTERACTIONS)
    for manifest in archive.manifests(archive.Store(url)):
        assert {p % 2 for file in manifest.files for p in file.ranges} == {manifest.worker}


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("FINESTREAM_ARCHIVER_FLUSH_SECONDS", "0", "FINESTREAM_ARCHIVER_FLUSH_SECONDS: Input should be greater than 0"),
        ("FINESTREAM_ARCHIVER_WORKER", "3", "worker is 3 but the workers are 0 to 0"),
        ("FINESTREAM_ARCHIVE_URL", "nosuch://bucket", "nosuch"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(start: Start, variable: str, value: str, words: str) -> None:
    archiver = start(**{variable: value})
    assert archiver.process.wait(30) == 2
    line = archiver.log.splitlines()[-1]
    assert line.startswith("finestream: ")
    assert words in line


async def test_a_second_archiver_of_the_same_share_does_not_start(start: Start) -> None:
    first = start().ready()
    second = start(FINESTREAM_ARCHIVER_TAKEOVER_SECONDS="0.2")
    assert await asyncio.to_thread(second.process.wait, 40) == 2
    assert "another archiver writes" in second.log.splitlines()[-1]
    assert first.stop() == 0
