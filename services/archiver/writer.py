"""The one who writes a worker's share of the archive. Synchronous; one thread at a time.

Every change is: write new files under names never used before, then replace the manifest. What a crash leaves
between the two is a file that no manifest names; `open` removes it. Nothing is deleted before the manifest that
no longer names it is in place.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import uuid4

import msgspec
import pyarrow as pa

from services.archiver import compaction, metrics, parquet
from services.archiver.sift import Record, Sifted, is_erased, join_erasures, sift
from shared import archive, events, logs, topics
from shared.archive import Archived, File, Manifest, Store

# Where rows with a user may lie.
USER_TOPICS = (topics.INTERACTIONS, topics.REVIEWS, topics.OPINIONS, topics.IMPRESSIONS, topics.ITEM_EDGES)
log = logs.get(__name__)


class Superseded(Exception):
    """Another process writes this worker's share now; this one must end."""


class OtherWorkers(Exception):
    """The archive was written by another number of workers."""


class Writer:
    """Appends records, applies erasures, merges small files. `progress` is called at every step of long work."""

    def __init__(
        self,
        store: Store,
        *,
        worker: int = 0,
        workers: int = 1,
        compact_files: int = 16,
        small_file_bytes: int = 8 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._name = archive.manifest_name(worker, workers)
        self._manifest = Manifest(worker=worker, workers=workers)
        self._id = uuid4().hex
        self._erased: dict[str, float] = {}
        self._unnamed: list[str] = []  # files of the change in hand
        self._compact_files, self._small_file_bytes = compact_files, small_file_bytes
        self._clock, self._progress = clock, progress

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def erased(self) -> Mapping[str, float]:
        """User -> the time up to which their facts are erased; never changed, only replaced."""
        return self._erased

    def next_offset(self, topic: str, partition: int) -> int | None:
        """The offset to archive next; None where nothing of the partition is archived."""
        if self._is_watched(topic, partition):
            return self._manifest.watched.get(partition)
        return self._manifest.offsets.get(topic, {}).get(partition)

    def owns(self, partition: int) -> bool:
        return partition % self._manifest.workers == self._manifest.worker

    def newest_append(self, topic: str, partition: int) -> float | None:
        """No record of the partition that is archived was appended later; None where none is archived."""
        held = (f.last_appended_at for f in self._manifest.files if f.topic == topic and partition in f.ranges)
        return max(held, default=None)

    # --- opening --------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the manifest over, remove what a crash left, and load the erasures.

        Raises OtherWorkers when the archive's manifests are of another number of workers, BadArchive when one
        cannot be read.
        """
        found = archive.manifests(self._store)
        own = self._manifest
        for manifest in found:
            if manifest.workers != own.workers:
                raise OtherWorkers(
                    f"FINESTREAM_ARCHIVER_WORKERS is {own.workers} but this archive was written by {manifest.workers}"
                )
            if manifest.worker == own.worker:
                self._manifest = manifest
        self._put(self._manifest)
        self._remove_orphans(found)
        self._load_erasures(found)
        self._remember()

    def _remove_orphans(self, found: Sequence[Manifest]) -> None:
        named = {file.path for manifest in found for file in manifest.files}
        worker = self._manifest.worker
        for path in self._store.names(f"topic=*/day=*/{worker}-*.parquet"):
            if path not in named:
                log.info("removing a file that a crash left", path=path)
                self._store.delete(path)
        for pattern in (f"topic=*/day=*/.{worker}-*.tmp", f".{self._name}.*.tmp"):
            for path in self._store.names(pattern):
                self._store.delete(path)

    def _load_erasures(self, found: Sequence[Manifest]) -> None:
        files = (file for manifest in found for file in manifest.files if file.topic == topics.ERASURES)
        decoded = (
            events.decode(row.topic, row.value, now=row.appended_at)
            for file in files
            for row in archive.rows_of(self._store, file)
        )
        self._erased = join_erasures({}, (event for event in decoded if isinstance(event, events.Erasure)))
        # What another worker has archived by now need not stand in this manifest as well.
        watched = {user: at for user, at in self._manifest.erased.items() if at > self._erased.get(user, 0.0)}
        self._manifest = msgspec.structs.replace(self._manifest, erased=watched)
        self._erased |= watched

    # --- appending ------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Record]) -> None:
        """Archive records, in order per partition; those that are archived already are left out.

        When it returns the manifest names them, and no row of a user that they erase is left. When it raises
        nothing has changed, and the same call may be made again.
        """
        fresh, manifest = self._advance(records)
        sifted = sift(fresh)
        news = join_erasures(self._erased, (erasure for _, erasure in sifted.erasures))
        erased = self._erased | news
        rows = [row for row in sifted.rows if not self._is_watched(row.topic, row.partition)]
        kept = [row for row in rows if not is_erased(row, erased)]
        with self._removed_on_failure():
            replaced = self._rewrite(manifest.files, news) if news else {}
            added = [
                self._write(parquet.table_of(group), topic, day, manifest.era, "flush")
                for (topic, day), group in parquet.by_topic_and_day(kept)
            ]
            self._check_ours()
        files = [new for file in manifest.files if (new := replaced.get(file.path, file)) is not None] + added
        foreign = join_erasures(self._erased, (event for place, event in sifted.erasures if not self.owns(place)))
        self._put(msgspec.structs.replace(manifest, files=files, erased=manifest.erased | foreign))
        self._erased = erased
        for path in replaced:
            self._store.delete(path)
        _count(sifted, rows, kept)

    def rewind(self, topic: str, partition: int, offset: int) -> None:
        """Go on from `offset`, before or behind the next one. Takes effect in the store with the next append."""
        manifest, held = self._manifest, self.next_offset(topic, partition)
        era = manifest.era + 1 if held is not None and offset < held else manifest.era
        moved = _with_offset(manifest, topic, partition, offset, watched=self._is_watched(topic, partition))
        self._manifest = msgspec.structs.replace(moved, era=era)

    def _advance(self, records: Sequence[Record]) -> tuple[list[Record], Manifest]:
        following = {topic: dict(partitions) for topic, partitions in self._manifest.offsets.items()}
        watched = dict(self._manifest.watched)
        fresh = []
        for record in records:
            foreign = self._is_watched(record.topic, record.partition)
            place = watched if foreign else following.setdefault(record.topic, {})
            if record.offset >= place.get(record.partition, 0):
                place[record.partition] = record.offset + 1
                fresh.append(record)
        return fresh, msgspec.structs.replace(self._manifest, offsets=following, watched=watched)

    def _is_watched(self, topic: str, partition: int) -> bool:
        return topic == topics.ERASURES and not self.owns(partition)

    def _rewrite(self, files: Sequence[File], erased: Mapping[str, float]) -> dict[str, File | None]:
        """path -> what replaces it, None where no row is left; files that hold no erased row are not in it."""
        until = max(erased.values())
        replaced: dict[str, File | None] = {}
        for file in files:
            if topics.kind_of(file.topic) not in USER_TOPICS or file.first_ts > until:
                continue
            table = parquet.decode(self._store, file)
            left = parquet.without(table, erased)
            self._progress()
            if left is table:
                continue
            metrics.ERASED.labels(file.topic).inc(table.num_rows - left.num_rows)
            replaced[file.path] = (
                self._write(left, file.topic, file.day, file.era, "erasure") if left.num_rows else None
            )
        return replaced

    # --- compaction -----------------------------------------------------------------------------------------

    def compact(self) -> int:
        """Merge the small files that are due, one manifest swap a merge; returns how many files are gone."""
        gone = 0
        due = compaction.merges(
            self._manifest.files,
            today=parquet.day_of(self._clock()),
            most=self._compact_files,
            small_bytes=self._small_file_bytes,
        )
        for run in list(due):
            self._merge(run)
            gone += len(run) - 1
            self._progress()
        if gone:
            pa.default_memory_pool().release_unused()  # Arrow would keep what a merge needed for a moment
        return gone

    def _merge(self, run: Sequence[File]) -> None:
        first = run[0]
        table = pa.concat_tables([parquet.decode(self._store, file) for file in run])
        with self._removed_on_failure():
            merged = self._write(table, first.topic, first.day, first.era, "compaction")
            self._check_ours()
        old = {file.path for file in run[1:]}
        files = [merged if file is first else file for file in self._manifest.files if file.path not in old]
        self._put(msgspec.structs.replace(self._manifest, files=files))
        for file in run:
            self._store.delete(file.path)

    # --- the store ------------------------------------------------------------------------------------------

    def _write(self, table: pa.Table, topic: str, day: str, era: int, why: str) -> File:
        path = archive.file_name(topic, day, self._manifest.worker)
        entry, data = parquet.encode(table, path=path, topic=topic, day=day, era=era)
        self._unnamed.append(path)
        self._store.put(path, data)
        metrics.WRITTEN.labels(why).inc(len(data))
        self._progress()
        return entry

    @contextmanager
    def _removed_on_failure(self) -> Iterator[None]:
        """What is written in here goes again when the rest fails, so that retries on a full disk do not fill it.

        Not around the manifest's own write: one that seems to have failed may have succeeded.
        """
        self._unnamed.clear()
        try:
            yield
        except Exception:
            for path in self._unnamed:
                self._remove(path)
            raise

    def _remove(self, path: str) -> None:
        try:
            self._store.delete(path)
        except OSError as error:  # the next start finds it
            log.warning("a file that nothing names is left", path=path, error=str(error))

    def _check_ours(self) -> None:
        if archive.load(self._store, self._name).writer != self._id:
            raise Superseded(f"another archiver has taken {self._store.path(self._name)} over")

    def _put(self, manifest: Manifest) -> None:
        claimed = msgspec.structs.replace(manifest, writer=self._id, revision=manifest.revision + 1)
        self._store.put(self._name, msgspec.json.encode(claimed))
        self._manifest = claimed
        self._remember()

    def _remember(self) -> None:
        metrics.FILES.set(len(self._manifest.files))


def _with_offset(manifest: Manifest, topic: str, partition: int, offset: int, *, watched: bool) -> Manifest:
    if watched:
        return msgspec.structs.replace(manifest, watched=manifest.watched | {partition: offset})
    moved = manifest.offsets.get(topic, {}) | {partition: offset}
    return msgspec.structs.replace(manifest, offsets=manifest.offsets | {topic: moved})


def _count(sifted: Sifted, rows: Sequence[Archived], kept: Sequence[Archived]) -> None:
    archived = Counter(row.topic for row in kept)
    for topic, count in archived.items():
        metrics.ARCHIVED.labels(topic).inc(count)
    for topic, count in (Counter(row.topic for row in rows) - archived).items():
        metrics.ERASED.labels(topic).inc(count)
    for (topic, reason), count in sifted.skipped.items():
        metrics.SKIPPED.labels(topic, reason).inc(count)
