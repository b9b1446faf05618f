"""The event log as Parquet: where it lies, its manifests, and how to read it while the archiver goes on writing.

    <url>/manifest-<worker>-of-<workers>.json
    <url>/topic=<topic>/day=<YYYY-MM-DD>/<worker>-<random>.parquet

A manifest is the only truth: a file that no manifest names does not exist, and a manifest is replaced whole, so a
reader sees each flush, compaction and erasure entirely or not at all. A file holds rows of one topic, sorted by
(partition, offset); the files of a partition are in the order of its log. What is derived is named with its space
(topics.in_space); readers name topics plainly, and the space that they mean.

`day` is the day (UTC) in which the broker took the record. By event day, one replay of ten years of reviews would
touch thousands of folders in every flush, and no folder could ever be called finished.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import fsspec
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from msgspec import Struct

from shared import events, files, logs, topics
from shared.events import Event, Source
from shared.space import DEFAULT_SPACE

FORMAT: Final = 2  # 2: topics of a space are named with it
BATCH_ROWS: Final = 1024  # what a reader holds at once; a value is at most about 200 KiB, mostly below 1 KiB

SCHEMA: Final = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("appended_at", pa.float64(), nullable=False),  # seconds since 1970, as the broker stamped it
        pa.field("ts", pa.float64(), nullable=False),  # event time, seconds since 1970
        pa.field("key", pa.binary()),
        pa.field("user_id", pa.string()),  # whose erasure removes the row; null where no erasure does
        pa.field("value", pa.binary(), nullable=False),  # the JSON bytes as they came
    ]
)
log = logs.get(__name__)


class BadArchive(Exception):
    """The archive cannot be read: what is wrong, and where."""


class File(Struct, frozen=True, kw_only=True):
    """One Parquet file. `ranges`: partition -> (first, last) offset that it holds rows of."""

    path: str
    topic: str
    day: str
    era: int
    rows: int
    bytes: int
    ranges: dict[int, tuple[int, int]]
    first_ts: float
    last_ts: float
    last_appended_at: float


class Manifest(Struct, frozen=True, kw_only=True):
    """What one archiver worker has written. `offsets`: topic -> partition -> next offset to archive.

    `writer` names the process that may replace the manifest. `era` grows when a log went back and uses offsets
    again, as the embedded broker's does after a kill: (era, offset) never repeats within a partition.
    `watched` and `erased` are of erasures whose partition another worker archives: next offset, and user -> time.
    """

    worker: int
    workers: int
    format: int = FORMAT
    writer: str = ""
    revision: int = 0
    era: int = 0
    files: list[File] = msgspec.field(default_factory=list)
    offsets: dict[str, dict[int, int]] = msgspec.field(default_factory=dict)
    watched: dict[int, int] = msgspec.field(default_factory=dict)
    erased: dict[str, float] = msgspec.field(default_factory=dict)


class Archived(Struct, frozen=True, gc=False):
    """One archived record, as it lay in Kafka."""

    topic: str
    partition: int
    offset: int
    appended_at: float
    ts: float
    key: bytes | None
    user_id: str | None
    value: bytes

    @property
    def source(self) -> Source:
        return Source(self.topic, self.partition, self.offset, self.appended_at)


class Store:
    """Files below one fsspec URL; `put` is atomic: a reader gets the old bytes or the new ones."""

    def __init__(self, url: str) -> None:
        try:
            self.fs, root = fsspec.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise BadArchive(f"{url} is no usable address: {error}") from None
        self._root = str(root).rstrip("/")
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def get(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        return bytes(self.fs.cat_file(self.path(name)))

    def put(self, name: str, data: bytes) -> None:
        if self.is_local:
            files.replace(Path(self.path(name)), data)
        else:
            self.fs.pipe_file(self.path(name), data)  # one PUT: object stores show it whole or not at all

    def open(self, name: str) -> Any:
        return self.fs.open(self.path(name), "rb")

    def delete(self, name: str) -> None:
        """Deleting what is not there is no error: another try may have been faster."""
        try:
            self.fs.rm_file(self.path(name))
        except FileNotFoundError:
            log.debug("already deleted", path=name)

    def names(self, pattern: str) -> list[str]:
        """Names below the root that match a glob, sorted."""
        self.fs.invalidate_cache()
        return sorted(str(found)[len(self._root) + 1 :] for found in self.fs.glob(self.path(pattern)))


def manifest_name(worker: int, workers: int) -> str:
    return f"manifest-{worker}-of-{workers}.json"


def file_name(topic: str, day: str, worker: int) -> str:
    """A new name: no two writes ever share one, so a file that a manifest names never changes."""
    return f"topic={topic}/day={day}/{worker}-{uuid4().hex[:20]}.parquet"


def load(store: Store, name: str) -> Manifest:
    """Raises FileNotFoundError, or BadArchive when the manifest cannot be understood."""
    try:
        manifest = msgspec.json.decode(store.get(name), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadArchive(f"{store.path(name)} is no manifest: {error}") from None
    if manifest.format != FORMAT:
        raise BadArchive(f"{store.path(name)} has format {manifest.format}; this version reads format {FORMAT}")
    return manifest


def manifests(store: Store) -> list[Manifest]:
    """Every worker's manifest; none where nothing has been archived yet."""
    return [load(store, name) for name in store.names("manifest-*-of-*.json")]


def rows_of(store: Store, file: File, plain: str = "") -> Iterator[Archived]:
    """The rows of one file, at most BATCH_ROWS in memory; `plain`: how their topic is called in its space.

    Raises FileNotFoundError when the file has been replaced.
    """
    topic = plain or file.topic
    with store.open(file.path) as opened:
        # Without threads: handing them the columns of so few rows costs more than decoding those does.
        for batch in pq.ParquetFile(opened).iter_batches(BATCH_ROWS, use_threads=False):
            columns = [batch.column(name).to_pylist() for name in SCHEMA.names]
            for values in zip(*columns, strict=True):
                yield Archived(topic, *values)


def read(
    url: str, names: Sequence[str], after: Mapping[str, Mapping[int, int]] | None = None, *, space: str = DEFAULT_SPACE
) -> Iterator[Archived]:
    """What the archive held of these topics when the reading began: each record once, each partition in log order.

    `after`: only records from these offsets on (topic -> partition -> offset). Memory does not grow with the log. When
    a compaction or an erasure replaces a file during the reading, the manifests are read again and the reading goes on
    behind the last row it gave.
    """
    store = Store(url)
    found = manifests(store)
    plain_of = {topics.in_space(name, space): name for name in names}
    progress = _Progress(found, {topics.in_space(name, space): places for name, places in (after or {}).items()})
    while True:
        try:
            for file in (file for manifest in found for file in manifest.files if file.topic in plain_of):
                yield from progress.new_rows(store, file, plain_of[file.topic])
            return
        except _Gone as gone:
            found = manifests(store)
            if any(file.path == gone.path for manifest in found for file in manifest.files):
                raise BadArchive(f"{store.path(gone.path)} is gone but a manifest names it") from None


def events_of(url: str, names: Sequence[str], *, space: str = DEFAULT_SPACE) -> Iterator[tuple[Event, Source]]:
    """As read, decoded. A record that this version refuses is left out and logged: its bounds were wider once."""
    refused: set[tuple[str, str]] = set()
    for row in read(url, names, space=space):
        try:
            event = events.decode(row.topic, row.value, now=row.appended_at)
        except events.InvalidEvent as error:
            if (row.topic, error.reason) not in refused:
                refused.add((row.topic, error.reason))
                log.warning("archived records are refused now", topic=row.topic, reason=error.reason)
            continue
        yield event, row.source


def offsets(url: str, *, space: str = DEFAULT_SPACE) -> dict[str, dict[int, int]]:
    """topic -> partition -> the next offset that is not archived yet; what is of another space has its whole name."""
    merged = merged_offsets(manifests(Store(url)))
    return {topics.plain(name, space): partitions for name, partitions in merged.items()}


def merged_offsets(found: Sequence[Manifest]) -> dict[str, dict[int, int]]:
    merged: dict[str, dict[int, int]] = {}
    for manifest in found:
        for topic, partitions in manifest.offsets.items():
            held = merged.setdefault(topic, {})
            for partition, offset in partitions.items():
                held[partition] = max(held.get(partition, 0), offset)
    return merged


class _Gone(Exception):
    """A file has been replaced since its manifest was read."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class _Progress:
    """Which rows a reading has given: (topic, partition) -> (era, next offset), and where it ends."""

    def __init__(self, found: Sequence[Manifest], after: Mapping[str, Mapping[int, int]]) -> None:
        self._end = {
            (topic, partition): (manifest.era, offset)
            for manifest in found
            for topic, partitions in manifest.offsets.items()
            for partition, offset in partitions.items()
        }
        # An offset to go on from is one of the partition's newest era: what came before the log went back is read.
        self._given: dict[tuple[str, int], tuple[int, int]] = {
            (topic, partition): (era, after[topic][partition])
            for (topic, partition), (era, _) in self._end.items()
            if partition in after.get(topic, {})
        }

    def new_rows(self, store: Store, file: File, plain: str) -> Iterator[Archived]:
        if self._holds_nothing_new(file):
            return
        try:
            for row in rows_of(store, file, plain):
                place, at = (file.topic, row.partition), (file.era, row.offset)
                if self._given.get(place, (0, 0)) <= at < self._end.get(place, (0, 0)):
                    self._given[place] = (file.era, row.offset + 1)
                    yield row
        except FileNotFoundError:
            raise _Gone(file.path) from None

    def _holds_nothing_new(self, file: File) -> bool:
        return all(
            (file.era, last) < self._given.get((file.topic, partition), (0, 0))
            for partition, (_, last) in file.ranges.items()
        )
