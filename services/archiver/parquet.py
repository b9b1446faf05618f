"""Rows to Parquet bytes with their manifest entry, and back to a table. Pure: nothing is written here."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared.archive import SCHEMA, Archived, File, Store

ROW_GROUP_ROWS: Final = 8192
ORDER: Final = [("partition", "ascending"), ("offset", "ascending")]


def table_of(rows: Sequence[Archived]) -> pa.Table:
    return pa.table({name: [getattr(row, name) for row in rows] for name in SCHEMA.names}, schema=SCHEMA)


def encode(table: pa.Table, *, path: str, topic: str, day: str, era: int) -> tuple[File, bytes]:
    """Parquet bytes of a table that is not empty, rows sorted by (partition, offset), and what to say of them."""
    table = table.sort_by(ORDER)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=ROW_GROUP_ROWS, compression="zstd", use_dictionary=["user_id"])
    data = buffer.getvalue()
    times = pc.min_max(table["ts"]).as_py()
    entry = File(
        path=path, topic=topic, day=day, era=era, rows=table.num_rows, bytes=len(data), ranges=_ranges(table),
        first_ts=times["min"], last_ts=times["max"], last_appended_at=pc.max(table["appended_at"]).as_py(),
    )  # fmt: skip
    return entry, data


def decode(store: Store, file: File) -> pa.Table:
    """The whole file: a flush or a merge made it, so it is bounded by their settings."""
    return pq.read_table(io.BytesIO(store.get(file.path)))


def without(table: pa.Table, erased: Mapping[str, float]) -> pa.Table:
    """The table less the rows that the erasures remove; the same object when there are none."""
    hits = pc.is_in(table["user_id"], value_set=pa.array(list(erased), pa.string()))
    if not pc.any(hits).as_py():
        return table
    users, times = table["user_id"].to_pylist(), table["ts"].to_pylist()
    keep = [user is None or ts > erased.get(user, 0.0) for user, ts in zip(users, times, strict=True)]
    return table if all(keep) else table.filter(pa.array(keep))


def by_topic_and_day(rows: Iterable[Archived]) -> Iterator[tuple[tuple[str, str], list[Archived]]]:
    """Rows of one file each, days ascending.

    Within a partition a row's day is never before that of the row before it, so files stay in log order even
    where producers' clocks stamp the records.
    """
    groups: dict[tuple[str, str], list[Archived]] = {}
    days: dict[tuple[str, int], str] = {}
    for row in rows:
        place = (row.topic, row.partition)
        days[place] = max(day_of(row.appended_at), days.get(place, ""))
        groups.setdefault((row.topic, days[place]), []).append(row)
    yield from sorted(groups.items(), key=lambda group: group[0])


def day_of(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _ranges(table: pa.Table) -> dict[int, tuple[int, int]]:
    grouped = table.group_by("partition").aggregate([("offset", "min"), ("offset", "max")])
    columns = (grouped[name].to_pylist() for name in ("partition", "offset_min", "offset_max"))
    return {partition: (first, last) for partition, first, last in sorted(zip(*columns, strict=True))}
