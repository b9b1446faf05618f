"""A log on disk, for logs that memory does not hold: what `dataset.read_log` gives, in one SQLite file.

  fact  user, item, ts, rank, event_id, id     the order that facts are told in: by time; of one time first what is
        kind, type, body                       said of the item, then interactions, then opinions as they were logged

Rows are appended as they come; what asks for an order (deduplication, erasures, indexes) sorts once, when all are in.
An interaction is its columns and has no body. Memory is SQLite's page cache and the facts of one user; what is kept of
all interactions is their times, in a memory map. The file is written once and then only read.
"""

import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, groupby, islice
from math import inf
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Literal, TypeGuard, cast, overload

import msgspec
import numpy as np
from msgspec.structs import astuple
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
PRAGMA cache_size = -65536;
CREATE TABLE fact (
  id INTEGER PRIMARY KEY, user TEXT, item TEXT NOT NULL, ts REAL NOT NULL, rank INTEGER NOT NULL,
  event_id TEXT, kind TEXT, type INTEGER NOT NULL, body BLOB
);
CREATE TABLE erasure (user TEXT PRIMARY KEY, erased_at REAL NOT NULL);
"""
MET: Final = "INSERT INTO fact (event_id, user, item, ts, kind, rank, type) VALUES "
ONE: Final = "(?, ?, ?, ?, ?, 1, 2)"  # an Interaction's fields in their order
ROWS: Final = 50  # of one statement: a statement of its own costs a row as much again
TOLD: Final = "INSERT INTO fact (user, item, ts, rank, type, body) VALUES (?, ?, ?, ?, ?, ?)"
ERASE: Final = """
INSERT INTO erasure VALUES (?, ?) ON CONFLICT DO UPDATE SET erased_at = max(erased_at, excluded.erased_at)
"""
# Of two facts with one event_id the later in order stays, as in read_log.
FINISH: Final = """
DELETE FROM fact WHERE id IN (
  SELECT id FROM (
    SELECT id, row_number() OVER (PARTITION BY event_id ORDER BY ts DESC, item DESC, kind DESC, user DESC) AS place
    FROM fact WHERE event_id IN (
      SELECT event_id FROM fact WHERE event_id IS NOT NULL GROUP BY event_id HAVING count(*) > 1
    )
  ) WHERE place > 1
);
CREATE INDEX of_user ON fact (user, ts, rank, event_id, id);
DELETE FROM fact WHERE id IN (
  SELECT id FROM erasure CROSS JOIN fact ON fact.user = erasure.user AND fact.ts <= erasure.erased_at
);
CREATE INDEX of_item ON fact (item, ts, rank, event_id, id);
"""


def write(folder: Path, events: Iterable[Event], space: str) -> "StoredLog":
    """Store a log's events, in whatever order they come, in an empty folder; facts of another space are passed over."""
    connection = sqlite3.connect(folder / FILE)
    connection.executescript(SCHEMA)
    rest = iter(events)
    while some := list(islice(rest, AT_ONCE)):
        _insert_met(connection, [astuple(event) for event in some if isinstance(event, Interaction)])
        others = [event for event in some if not isinstance(event, Interaction)]
        connection.executemany(TOLD, (_row(event) for event in others if _is_told(event, space)))
        connection.executemany(ERASE, ((e.user_id, e.erased_at) for e in others if isinstance(e, Erasure)))
    connection.commit()
    connection.executescript(FINISH)
    with (folder / TIMES).open("wb") as file:
        times = connection.execute("SELECT ts FROM fact WHERE rank = ?", (INTERACTION,))
        while found := times.fetchmany(AT_ONCE):
            file.write(np.array(found, np.float64).tobytes())
    connection.close()
    _mapped(folder / TIMES, "r+").sort()
    return StoredLog(folder)


def _mapped(path: Path, mode: Literal["r", "r+"]) -> NDArray[np.float64]:
    """Nothing can be mapped of an empty file."""
    return np.memmap(path, np.float64, mode) if path.stat().st_size else np.zeros(0)


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
        found = Times(_mapped(self._folder / TIMES, "r"))
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
            f"SELECT event_id, user, item, ts, kind, type, body FROM fact WHERE {side} IS NOT NULL "  # noqa: S608
            f"AND ts >= ? AND ts < ? ORDER BY {side}, ts, rank, event_id, id",
            (since, until),
        )
        for node, rows in groupby(told, itemgetter(1 if side == "user" else 2)):
            yield node, (_fact(*row) for row in rows)

    def _one(self, query: str) -> Any:
        return self._connection.execute(query, (self._until,)).fetchone()[0]


def _insert_met(connection: sqlite3.Connection, met: Sequence[tuple[Any, ...]]) -> None:
    whole = len(met) - len(met) % ROWS
    values = (tuple(chain.from_iterable(met[at : at + ROWS])) for at in range(0, whole, ROWS))
    connection.executemany(MET + ", ".join([ONE] * ROWS), values)
    connection.executemany(MET + ONE, met[whole:])


def _is_told(event: Event, space: str) -> TypeGuard[Item | ItemSemantics | Opinions]:
    """Whether it is a fact of this space other than an interaction."""
    return isinstance(event, Item) or (isinstance(event, ItemSemantics | Opinions) and event.space == space)


def _row(event: Item | ItemSemantics | Opinions) -> tuple[Any, ...]:
    user, rank = (event.user_id, OPINIONS) if isinstance(event, Opinions) else (None, ITEM_SIDE)
    return (user, event.item_id, event.ts, rank, TYPES.index(type(event)), msgspec.msgpack.encode(event))


def _fact(
    event_id: str, user: str, item: str, ts: float, kind: str, of_type: int, body: bytes | None
) -> tuple[float, Any]:
    if body is None:
        return ts, Interaction(event_id=event_id, user_id=user, item_id=item, ts=ts, kind=kind)
    return ts, _DECODERS[of_type].decode(body)


def _of_item(fact: Any) -> ItemFact:
    return edges_of(fact, NOWHERE) if isinstance(fact, Interaction | Opinions) else cast(ItemFact, fact)
