"""A log on disk, for logs that memory does not hold: what `dataset.read_log` gives, in one SQLite file.

  fact  user, item, ts, rank, event_id, id     the order that facts are told in: by time; of one time first what is
        type, body                             said of the item, then interactions, then opinions as they were logged

Memory is SQLite's page cache and the facts of one user; what is kept of all interactions is their times, in a memory
map. The file is written once and then only read.
"""

import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby, islice
from math import inf
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, cast, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.events import Erasure, Event, Interaction, Item, ItemSemantics, Opinions
from shared.graph.fold import ItemFact, UserFact, edges_of
from shared.models.dataset import NOWHERE

FILE: Final = "log.sqlite"
TIMES: Final = "times"
AT_ONCE: Final = 10_000  # facts of a write
TYPES: Final = (Item, ItemSemantics, Interaction, Opinions)
ITEM_SIDE, INTERACTION, OPINIONS = 0, 1, 2  # ranks
_DECODERS: Final = [msgspec.msgpack.Decoder(of_type) for of_type in TYPES]

SCHEMA: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE fact (
  id INTEGER PRIMARY KEY, user TEXT, item TEXT NOT NULL, ts REAL NOT NULL, rank INTEGER NOT NULL,
  event_id TEXT UNIQUE, kind TEXT, type INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE erasure (user TEXT PRIMARY KEY, erased_at REAL NOT NULL);
"""
# Of two facts with one event_id the later in order stays, as in read_log.
INSERT: Final = """
INSERT INTO fact (user, item, ts, rank, event_id, kind, type, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (event_id) DO UPDATE SET user = excluded.user, item = excluded.item, ts = excluded.ts,
  kind = excluded.kind, body = excluded.body
WHERE (excluded.ts, excluded.item, excluded.kind, excluded.user) > (fact.ts, fact.item, fact.kind, fact.user)
"""
ERASE: Final = """
INSERT INTO erasure VALUES (?, ?) ON CONFLICT DO UPDATE SET erased_at = max(erased_at, excluded.erased_at)
"""
FINISH: Final = """
DELETE FROM fact WHERE EXISTS (SELECT 1 FROM erasure WHERE erasure.user = fact.user AND fact.ts <= erased_at);
CREATE INDEX of_user ON fact (user, ts, rank, event_id, id);
CREATE INDEX of_item ON fact (item, ts, rank, event_id, id);
"""


def write(folder: Path, events: Iterable[Event], space: str) -> "StoredLog":
    """Store a log's events, in whatever order they come, in an empty folder; facts of another space are passed over."""
    connection = sqlite3.connect(folder / FILE)
    connection.executescript(SCHEMA)
    rest = iter(events)
    while some := list(islice(rest, AT_ONCE)):
        rows = (row for event in some if (row := _row(event, space)) is not None)
        connection.executemany(INSERT, rows)
        connection.executemany(ERASE, ((e.user_id, e.erased_at) for e in some if isinstance(e, Erasure)))
    connection.commit()
    connection.executescript(FINISH)
    with (folder / TIMES).open("wb") as file:
        for (ts,) in connection.execute("SELECT ts FROM fact WHERE rank = ? ORDER BY ts", (INTERACTION,)):
            file.write(np.float64(ts).tobytes())
    connection.close()
    return StoredLog(folder)


class Times(Sequence[float]):
    """Ascending, read when they are asked for."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, at: int) -> float: ...
    @overload
    def __getitem__(self, at: slice) -> "Times": ...
    def __getitem__(self, at: int | slice) -> "float | Times":
        return Times(self._values[at]) if isinstance(at, slice) else float(self._values[at])


class StoredLog:
    """`shared.models.dataset.Logged`, of a folder that `write` has filled."""

    def __init__(self, folder: Path, until: float = inf) -> None:
        self.spool: Path | None = folder
        self._folder, self._until = folder, until
        self._connection = sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True)

    @cached_property
    def times(self) -> Times:
        path = self._folder / TIMES
        found = Times(np.memmap(path, np.float64, "r") if path.stat().st_size else np.zeros(0))
        return found[: bisect_left(found, self._until)]

    @property
    def interactions(self) -> int:
        return len(self.times)

    @cached_property
    def newest(self) -> float:
        found = self._one("SELECT max(ts) FROM fact WHERE ts < ?")
        return -inf if found is None else float(found)

    @cached_property
    def user_count(self) -> int:
        return int(self._one("SELECT count(DISTINCT user) FROM fact WHERE ts < ?"))

    @cached_property
    def item_count(self) -> int:
        return int(self._one("SELECT count(DISTINCT item) FROM fact WHERE ts < ?"))

    def before(self, ts: float) -> int:
        return bisect_left(self.times, ts)

    def until(self, ts: float) -> "StoredLog":
        return StoredLog(self._folder, min(ts, self._until))

    def users(self) -> Iterator[tuple[str, Sequence[tuple[float, UserFact]]]]:
        for user_id, facts in self._nodes("user", -inf, self._until):
            yield user_id, list(cast(Iterator[tuple[float, UserFact]], facts))

    def items(self, since: float = -inf, until: float = inf) -> Iterator[tuple[str, Iterable[tuple[float, ItemFact]]]]:
        for item_id, facts in self._nodes("item", since, min(until, self._until)):
            yield item_id, ((ts, _of_item(fact)) for ts, fact in facts)

    def _nodes(self, side: str, since: float, until: float) -> Iterator[tuple[str, Iterator[tuple[float, Any]]]]:
        told = self._connection.execute(
            f"SELECT {side}, ts, type, body FROM fact WHERE {side} IS NOT NULL AND ts >= ? AND ts < ? "  # noqa: S608
            f"ORDER BY {side}, ts, rank, event_id, id",
            (since, until),
        )
        for node, rows in groupby(told, itemgetter(0)):
            yield node, ((ts, _DECODERS[of_type].decode(body)) for _, ts, of_type, body in rows)

    def _one(self, query: str) -> Any:
        return self._connection.execute(query, (self._until,)).fetchone()[0]


def _row(event: Event, space: str) -> tuple[Any, ...] | None:
    """None for what is no fact of this space."""
    if isinstance(event, Interaction):
        return (event.user_id, event.item_id, event.ts, INTERACTION, event.event_id, event.kind, *_stored(event))
    if isinstance(event, Opinions) and event.space == space:
        return (event.user_id, event.item_id, event.ts, OPINIONS, None, None, *_stored(event))
    if isinstance(event, Item) or (isinstance(event, ItemSemantics) and event.space == space):
        return (None, event.item_id, event.ts, ITEM_SIDE, None, None, *_stored(event))
    return None


def _stored(event: Event) -> tuple[int, bytes]:
    return TYPES.index(type(event)), msgspec.msgpack.encode(event)


def _of_item(fact: Any) -> ItemFact:
    return edges_of(fact, NOWHERE) if isinstance(fact, Interaction | Opinions) else cast(ItemFact, fact)
