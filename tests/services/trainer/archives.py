"""Writes a small archive as the archiver lays it out, so that the trainer can be tested without one."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from shared import archive, events, topics
from shared.events import Event
from shared.space import DEFAULT_SPACE


def write(url: Path, logged: Sequence[tuple[str, Event]]) -> None:
    """In the default space."""
    by_topic: dict[str, list[Event]] = defaultdict(list)
    for topic, event in logged:
        by_topic[topics.in_space(topic, DEFAULT_SPACE)].append(event)
    files = [_file(url, topic, found) for topic, found in by_topic.items()]
    manifest = archive.Manifest(
        worker=0, workers=1, files=files, offsets={topic: {0: len(found)} for topic, found in by_topic.items()}
    )
    (url / archive.manifest_name(0, 1)).write_bytes(msgspec.json.encode(manifest))


def _file(url: Path, topic: str, found: Sequence[Event]) -> archive.File:
    name = archive.file_name(topic, "2026-01-01", 0)
    times = [events.time_of(event) for event in found]
    rows = [
        {
            "partition": 0, "offset": at, "appended_at": 1.8e9, "ts": ts, "key": events.key_of(event),
            "user_id": getattr(event, "user_id", None), "value": events.encode(event),
        }
        for at, (event, ts) in enumerate(zip(found, times, strict=True))
    ]  # fmt: skip
    (url / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=archive.SCHEMA), url / name)
    return archive.File(
        path=name, topic=topic, day="2026-01-01", era=0, rows=len(rows), bytes=(url / name).stat().st_size,
        ranges={0: (0, len(rows) - 1)}, first_ts=min(times), last_ts=max(times), last_appended_at=1.8e9,
    )  # fmt: skip
