"""shared/archive.py: a reader sees each record once, whole, while files come and go."""

import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared import archive, topics
from shared.archive import SCHEMA, Archived, BadArchive, File, Manifest, Store
from shared.events import Interaction, Source, encode
from tests.parts import full_disk

TOPIC = topics.INTERACTIONS


def click(n: int) -> Interaction:
    return Interaction(event_id=f"e{n}", user_id="u", item_id="i", ts=1e9 + n)


def write(store: Store, offsets: range, *, partition: int = 0, era: int = 0, value: bytes = b"") -> File:
    """One file of clicks, as the archiver would leave it."""
    path = archive.file_name(TOPIC, "2023-11-14", 0)
    rows = [(partition, n, 1.7e9 + n, 1e9 + n, b"u", "u", value or encode(click(n))) for n in offsets]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=500)
    data = sink.getvalue().to_pybytes()
    store.put(path, data)
    return File(
        path=path, topic=TOPIC, day="2023-11-14", era=era, rows=len(rows), bytes=len(data),
        ranges={partition: (offsets[0], offsets[-1])}, first_ts=0.0, last_ts=0.0, last_appended_at=0.0,
    )  # fmt: skip


def publish(store: Store, *files: File, end: int, era: int = 0, worker: int = 0, partition: int = 0) -> None:
    manifest = Manifest(
        worker=worker, workers=2, era=era, files=list(files), offsets={TOPIC: {partition: end}}, revision=1
    )
    store.put(archive.manifest_name(worker, 2), msgspec.json.encode(manifest))


@pytest.fixture(params=["a local folder", "an object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(
        str(tmp_path / "archive") if request.param == "a local folder" else f"memory://{tmp_path.name}-{id(request)}"
    )


def url_of(store: Store) -> str:
    return str(store.fs.unstrip_protocol(store.path(""))).rstrip("/")


def offsets_of(rows: Iterator[Archived]) -> list[int]:
    return [row.offset for row in rows]


def test_an_archive_that_is_not_there_yet_is_empty(store: Store) -> None:
    assert list(archive.read(url_of(store), [TOPIC])) == []
    assert archive.offsets(url_of(store)) == {}


def test_events_come_back_as_they_were_sent_with_where_they_lay(store: Store) -> None:
    publish(store, write(store, range(3)), end=3)
    assert list(archive.events_of(url_of(store), [TOPIC])) == [
        (click(n), Source(TOPIC, 0, n, 1.7e9 + n)) for n in range(3)
    ]
    assert list(archive.read(url_of(store), [topics.REVIEWS])) == []


def test_a_file_that_no_manifest_names_is_not_read(store: Store) -> None:
    publish(store, write(store, range(3)), end=3)
    write(store, range(3, 6))
    assert offsets_of(archive.read(url_of(store), [TOPIC])) == [0, 1, 2]


def test_the_shares_of_all_workers_are_read(store: Store) -> None:
    publish(store, write(store, range(2)), end=2)
    publish(store, write(store, range(3), partition=1), end=3, worker=1, partition=1)
    assert sorted((r.partition, r.offset) for r in archive.read(url_of(store), [TOPIC])) == [
        (0, 0), (0, 1), (1, 0), (1, 1), (1, 2),
    ]  # fmt: skip
    assert archive.offsets(url_of(store)) == {TOPIC: {0: 2, 1: 3}}


@pytest.mark.parametrize("read_first", [0, 1, 4, 5, 9, 10])
def test_files_that_are_merged_during_a_reading_are_read_once(store: Store, read_first: int) -> None:
    old = [write(store, range(n, n + 5)) for n in (0, 5, 10)]
    publish(store, *old, end=15)
    rows = archive.read(url_of(store), [TOPIC])
    seen = offsets_of(islice(rows, read_first))
    publish(store, write(store, range(15)), end=15)
    for file in old:
        store.delete(file.path)
    assert seen + offsets_of(rows) == list(range(15))


@pytest.mark.parametrize("after", [0, 3, 5, 9, 10, 12])
def test_a_reading_that_goes_on_gives_what_lies_from_its_offsets_on(store: Store, after: int) -> None:
    publish(store, write(store, range(5)), write(store, range(5, 10)), end=10)
    publish(store, write(store, range(4), partition=1, era=2), end=4, era=2, worker=1, partition=1)
    rows = list(archive.read(url_of(store), [TOPIC], {TOPIC: {0: after}, topics.ITEMS: {0: 99}}))
    assert [row.offset for row in rows if row.partition == 0] == list(range(after, 10))
    assert [row.offset for row in rows if row.partition == 1] == [0, 1, 2, 3], "nothing is said of it"


def test_a_reading_goes_on_in_the_newest_era_alone(store: Store) -> None:
    publish(store, write(store, range(8), era=1), write(store, range(2, 6), era=3), end=6, era=3)
    assert offsets_of(archive.read(url_of(store), [TOPIC], {TOPIC: {0: 4}})) == [4, 5]


def test_rows_that_come_during_a_reading_are_left_for_the_next(store: Store) -> None:
    old = [write(store, range(5)), write(store, range(5, 10))]
    publish(store, *old, end=10)
    rows = archive.read(url_of(store), [TOPIC])
    seen = offsets_of(islice(rows, 5))
    publish(store, write(store, range(20)), end=20)
    for file in old:
        store.delete(file.path)
    assert seen + offsets_of(rows) == list(range(10))
    assert offsets_of(archive.read(url_of(store), [TOPIC])) == list(range(20))


def test_offsets_that_a_log_used_again_are_both_read_even_across_a_merge(store: Store) -> None:
    old, new = write(store, range(5)), [write(store, range(n, n + 2), era=1) for n in (3, 5)]
    publish(store, old, *new, end=7, era=1)
    rows = archive.read(url_of(store), [TOPIC])
    seen = offsets_of(islice(rows, 6))
    publish(store, old, write(store, range(3, 7), era=1), end=7, era=1)
    for file in new:
        store.delete(file.path)
    assert seen + offsets_of(rows) == [0, 1, 2, 3, 4, 3, 4, 5, 6]


def _cut(store: Store, file: File) -> None:
    store.delete(file.path)


def _garble_manifest(store: Store, _: File) -> None:
    store.put(archive.manifest_name(0, 2), b"{")


def _future_manifest(store: Store, _: File) -> None:
    store.put(archive.manifest_name(0, 2), msgspec.json.encode(Manifest(worker=0, workers=2, format=99)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [(_cut, "is gone but a manifest names it"), (_garble_manifest, "is no manifest"), (_future_manifest, "format 99")],
)
def test_a_damaged_archive_is_said_to_be_so(store: Store, damage: Callable[[Store, File], None], words: str) -> None:
    file = write(store, range(3))
    publish(store, file, end=3)
    damage(store, file)
    with pytest.raises(BadArchive, match=words):
        list(archive.read(url_of(store), [TOPIC]))


def test_an_address_of_no_known_kind_is_refused() -> None:
    with pytest.raises(BadArchive, match="nosuch"):
        archive.offsets("nosuch://bucket/archive")


def test_a_record_that_is_refused_now_does_not_end_the_reading(store: Store) -> None:
    bad = write(store, range(1), value=b'{"event_id": ""}')
    publish(store, bad, write(store, range(1, 3)), end=3)
    assert [event for event, _ in archive.events_of(url_of(store), [TOPIC])] == [click(1), click(2)]


def test_a_put_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.put("manifest", b"old")
    opened = (tmp_path / "manifest").open("rb")
    store.put("manifest", b"a longer new one")
    assert opened.read() == b"old", "a reader that had opened it keeps what it opened"
    opened.close()
    assert store.get("manifest") == b"a longer new one"
    assert [path.name for path in tmp_path.iterdir()] == ["manifest"]


def test_a_put_on_a_full_disk_keeps_the_old_and_leaves_nothing_else(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.put("manifest", b"old")
    with full_disk(100), pytest.raises(OSError, match="large"):
        store.put("manifest", b"x" * 1000)
    assert store.get("manifest") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["manifest"]


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    fat = b'{"x": "' + b"x" * 1000 + b'"}'
    publish(store, *(write(store, range(n, n + 10_000), value=fat) for n in range(0, 50_000, 10_000)), end=50_000)
    pool, count = pa.default_memory_pool(), 0
    before = pool.bytes_allocated()
    tracemalloc.start()
    try:
        for _ in archive.read(str(tmp_path), [TOPIC]):
            count += 1
            if count % 5_000 == 0:
                assert pool.bytes_allocated() - before < 8e6
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 50_000
    assert peak < 10e6, "50 MB went through"
