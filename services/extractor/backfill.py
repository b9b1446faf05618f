"""The extractor as a job over a file: `python -m services.extractor.backfill --reviews FILE --out FOLDER`.

It does what the service does with the same reviews and items, and leaves their interactions, opinions, items and
semantics as an event log that shared.archive reads. The manifest is written last: a log that can be read is whole.
"""

import argparse
import asyncio
import io
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from services.extractor.items import Items
from services.extractor.main import Parts, parts_of
from services.extractor.reviews import Reviews
from services.extractor.settings import ExtractorSettings
from services.extractor.worker import Worker
from shared import archive, events, logs, settings, topics
from shared.archive import SCHEMA, Archived, File, Manifest, Store
from shared.batches import Delivery, Handler
from shared.events import Event, InvalidEvent, Source
from shared.experiments.bar import counted
from shared.experiments.readers import BadLines
from shared.jobs import ending, patiently
from shared.local.reviews import count_lines, read_items, read_reviews
from shared.service import WrongSetting

FILE_ROWS: Final = 20_000

log = logs.get(__name__)


class NotEmpty(WrongSetting):
    """There is an event log already where one should be written."""


class Written:
    """A Sender that writes an event log of one partition. Nothing of it can be read before `close`."""

    def __init__(self, url: str, space: str) -> None:
        self._store = Store(url)
        if archive.manifests(self._store):
            raise NotEmpty(f"{url} holds an event log already")
        self._space = space
        self._now = time.time()
        self._rows: dict[str, list[Archived]] = {}
        self._next: Counter[str] = Counter()
        self._files: list[File] = []

    async def send_all(self, batch: Sequence[tuple[str, Event]]) -> list[Source]:
        return [self.add(topic, event) for topic, event in batch]

    def add(self, topic: str, event: Event) -> Source:
        """Raises InvalidEvent for what the system refuses."""
        value = events.encode(event)
        events.decode(topic, value, now=self._now)
        user_id = event.user_id if isinstance(event, events.Interaction | events.Opinions) else None
        row = Archived(
            topic, 0, self._next[topic], self._now, events.time_of(event), events.key_of(event), user_id, value
        )  # fmt: skip
        self._next[topic] += 1
        self._rows.setdefault(topic, []).append(row)
        if len(self._rows[topic]) >= FILE_ROWS:
            self._flush(topic)
        return row.source

    def taken(self, topic: str, event: Event, offset: int) -> Delivery:
        """What is only worked on, and not written. Raises InvalidEvent for what the system refuses."""
        events.decode(topic, events.encode(event), now=self._now)
        return Delivery(event, Source(topic, 0, offset, self._now))

    def close(self) -> None:
        """Name the files: from here on there is a log."""
        for topic in self._rows:
            self._flush(topic)
        offsets = {topics.in_space(topic, self._space): {0: offset} for topic, offset in self._next.items()}
        manifest = Manifest(worker=0, workers=1, revision=1, files=self._files, offsets=offsets)
        self._store.put(archive.manifest_name(0, 1), msgspec.json.encode(manifest))

    def _flush(self, topic: str) -> None:
        rows, self._rows[topic] = self._rows[topic], []
        if not rows:
            return
        day = datetime.fromtimestamp(self._now, UTC).strftime("%Y-%m-%d")
        name = topics.in_space(topic, self._space)
        path = archive.file_name(name, day, 0)
        buffer = io.BytesIO()
        columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
        pq.write_table(pa.table(columns, schema=SCHEMA), buffer, compression="zstd", use_dictionary=["user_id"])
        data, times = buffer.getvalue(), [row.ts for row in rows]
        self._store.put(path, data)
        self._files.append(
            File(
                path=path, topic=name, day=day, era=0, rows=len(rows), bytes=len(data),
                ranges={0: (rows[0].offset, rows[-1].offset)},
                first_ts=min(times), last_ts=max(times), last_appended_at=self._now,
            )
        )  # fmt: skip


class Backfill:
    """One run over the files."""

    def __init__(self, parts: Parts, chosen: ExtractorSettings, written: Written) -> None:
        self._written, self._batch = written, chosen.batch_size
        self._reviews = Reviews(parts.extraction, parts.vectors, written, chosen, parts.space.name)
        self._items = Items(parts.vectors, written, chosen, parts.space.name)

    async def reviews(self, path: Path) -> None:
        """Every line's interaction, and the opinions of every review that the system takes."""
        bad = BadLines(path)
        await self._work("reviews", path, self._read_reviews(path, bad), self._reviews)
        bad.tell()

    async def items(self, path: Path) -> None:
        bad = BadLines(path)
        await self._work("items", path, self._read_items(path, bad), self._items)
        bad.tell()

    async def _work(self, what: str, path: Path, found: Iterable[Delivery], handler: Handler) -> None:
        with counted(f"extracting {what}", count_lines(path)) as done:
            remaining = iter(found)
            while batch := list(islice(remaining, self._batch)):
                await patiently(partial(handler, batch))
                done(len(batch))

    def _read_reviews(self, path: Path, bad: BadLines) -> Iterator[Delivery]:
        for interaction, review in read_reviews(path, bad):
            number = int(review.review_id[1:])
            try:
                self._written.add(topics.INTERACTIONS, interaction)
                yield self._written.taken(topics.REVIEWS, review, number)
            except InvalidEvent as error:
                bad(number, str(error))

    def _read_items(self, path: Path, bad: BadLines) -> Iterator[Delivery]:
        for number, item in enumerate(read_items(path, bad), 1):
            try:
                yield Delivery(item, self._written.add(topics.ITEMS, item))
            except InvalidEvent as error:
                bad(number, str(error))


async def backfill(reviews: Path, items: Path | None, url: str, chosen: ExtractorSettings) -> None:
    """Raises WrongSetting, NotEmpty, OSError for a file that cannot be read, Unavailable for a provider's silence."""
    written = Written(url, chosen.space.name)
    worker = Worker(chosen.torch_threads)
    try:
        parts = await worker.run(parts_of, chosen, worker)
        try:
            job = Backfill(parts, chosen, written)
            if items is not None:
                await job.items(items)
            await job.reviews(reviews)
        finally:
            await parts.close()
    finally:
        worker.stop()
    written.close()


def main() -> None:
    """Exit codes: 0 written; 1 a file cannot be read, or the provider does not answer; 2 a wrong setting."""
    parser = argparse.ArgumentParser(prog="services.extractor.backfill", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--reviews", type=Path, required=True, help="Amazon reviews, JSON lines, gzip or not")
    parser.add_argument("--items", type=Path, help="their items' metadata")
    parser.add_argument("--out", required=True, help="folder or URL of the event log; holds none yet")
    parser.add_argument("--space", help="instead of FINESTREAM_SPACE_NAME")
    given = parser.parse_args()
    chosen = settings.read(ExtractorSettings)
    if given.space:
        chosen.space.name = given.space
    logs.configure("extractor", chosen.log_level)
    with ending():
        asyncio.run(backfill(given.reviews, given.items, given.out, chosen))


if __name__ == "__main__":
    main()
