"""Which batches an endpoint was given and what they ask, on disk from before they are created until they are stored.

Texts of reviews are in it, so those of a batch are deleted as soon as its answers are kept, and overwritten. One
process works with it at a time.
"""

import fcntl
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final
from uuid import uuid4

from services.extractor.budget import Reserved
from shared.errors import FinestreamError

FILE: Final = "batches.sqlite"
_SCHEMA: Final = """
PRAGMA auto_vacuum = FULL;
PRAGMA synchronous = FULL;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS home (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS parts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, provider TEXT NOT NULL, day TEXT, usd REAL NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0, batch TEXT, files TEXT
);
CREATE TABLE IF NOT EXISTS texts (
    part INTEGER NOT NULL, number INTEGER NOT NULL, hash TEXT NOT NULL, text BLOB NOT NULL, shown BLOB NOT NULL,
    usd REAL NOT NULL, PRIMARY KEY (part, number)
) WITHOUT ROWID;
"""
_COLUMNS: Final = "number, provider, day, usd, sent, batch, files"


class Unkept(FinestreamError):
    """The file cannot be read or written, or another process works with it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one batch asks. It is planned, then perhaps sent, then known to be a batch, then stored."""

    number: int
    provider: str  # what its answers are kept under
    reserved: Reserved | None
    is_sent: bool  # there may be a batch of it
    batch: str | None
    files: tuple[str, ...] | None  # at the endpoint, to be deleted; None: its answers are not stored yet


@dataclass(frozen=True, slots=True)
class Asked:
    """A text of a part, by its hash; `number` names it to the endpoint, which learns nothing from that."""

    number: int
    key: str
    text: str
    shown: str
    usd: float  # that the answer costs at most


class Underway:
    def __init__(self, folder: Path) -> None:
        """Raises Unkept, OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._lock = (folder / f"{FILE}.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Unkept(f"another process works with {self._path}") from None
        self._base = sqlite3.connect(self._path)
        try:
            self.home = self._home()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._base.close()
        self._lock.close()

    def tag(self, part: int) -> str:
        """What the part's batch is found by."""
        return f"{self.home}-{part}"

    def parts(self) -> list[Part]:
        with self._changing() as base:
            return [_part(row) for row in base.execute(f"SELECT {_COLUMNS} FROM parts ORDER BY number")]  # noqa: S608

    def part(self, number: int) -> Part:
        with self._changing() as base:
            return _part(base.execute(f"SELECT {_COLUMNS} FROM parts WHERE number = ?", [number]).fetchone())  # noqa: S608

    def plan(self, provider: str) -> int:
        """A new part without texts."""
        with self._changing() as base:
            return int(base.execute("INSERT INTO parts (provider) VALUES (?)", [provider]).lastrowid or 0)

    def add(self, part: int, asked: Iterable[Asked]) -> None:
        rows = ((part, one.number, one.key, _bytes(one.text), _bytes(one.shown), one.usd) for one in asked)
        with self._changing() as base:
            base.executemany("INSERT INTO texts VALUES (?, ?, ?, ?, ?, ?)", rows)

    def split(self, part: int, at: int) -> int:
        """Move the texts behind the first `at` to a new part."""
        with self._changing() as base:
            sql = "INSERT INTO parts (provider) SELECT provider FROM parts WHERE number = ?"
            other = int(base.execute(sql, [part]).lastrowid or 0)
            behind = "SELECT number FROM texts WHERE part = ? ORDER BY number LIMIT -1 OFFSET ?"
            base.execute(
                f"UPDATE texts SET part = ? WHERE part = ? AND number IN ({behind})",  # noqa: S608
                [other, part, part, at],
            )
        return other

    def reserve(self, part: int, reserved: Reserved) -> None:
        with self._changing() as base:
            day = reserved.day.isoformat()
            base.execute("UPDATE parts SET day = ?, usd = ? WHERE number = ?", [day, reserved.usd, part])

    def send(self, part: int) -> None:
        """From here on there may be a batch of it."""
        with self._changing() as base:
            base.execute("UPDATE parts SET sent = 1 WHERE number = ?", [part])

    def created(self, part: int, batch: str) -> None:
        with self._changing() as base:
            base.execute("UPDATE parts SET sent = 1, batch = ? WHERE number = ?", [batch, part])

    def take_back(self, part: int) -> None:
        """It is planned again: nothing was done of it."""
        with self._changing() as base:
            base.execute("UPDATE parts SET day = NULL, usd = 0, sent = 0, batch = NULL WHERE number = ?", [part])

    def stored(self, part: int, files: Sequence[str]) -> None:
        """Its answers are kept; what is left to do is to delete these files."""
        with self._changing() as base:
            base.execute("DELETE FROM texts WHERE part = ?", [part])
            base.execute("UPDATE parts SET files = ? WHERE number = ?", [" ".join(files), part])

    def drop(self, part: int) -> None:
        with self._changing() as base:
            base.execute("DELETE FROM texts WHERE part = ?", [part])
            base.execute("DELETE FROM parts WHERE number = ?", [part])

    def keys(self, provider: str) -> set[str]:
        """Of the texts that are asked about."""
        sql = "SELECT hash FROM texts WHERE part IN (SELECT number FROM parts WHERE provider = ?)"
        with self._changing() as base:
            return {key for (key,) in base.execute(sql, [provider])}

    def most(self, part: int) -> dict[int, float]:
        """USD that the answer to each of its texts costs at most, in order."""
        with self._changing() as base:
            return dict(base.execute("SELECT number, usd FROM texts WHERE part = ? ORDER BY number", [part]).fetchall())

    def asked(self, part: int) -> Iterator[Asked]:
        sql = "SELECT number, hash, text, shown, usd FROM texts WHERE part = ? ORDER BY number"
        with self._changing() as base:
            yield from map(_asked, base.execute(sql, [part]))

    def one(self, part: int, number: int) -> Asked:
        sql = "SELECT number, hash, text, shown, usd FROM texts WHERE part = ? AND number = ?"
        with self._changing() as base:
            return _asked(base.execute(sql, [part, number]).fetchone())

    def _home(self) -> str:
        """What tells our batches from those of others of the account; it lasts as long as the file."""
        with self._changing() as base:
            base.executescript(_SCHEMA)
            new = [f"finestream-{uuid4().hex}"]
            base.execute("INSERT INTO home SELECT ? WHERE NOT EXISTS (SELECT 1 FROM home)", new)
            return str(base.execute("SELECT id FROM home").fetchone()[0])

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is on disk, or nothing."""
        try:
            with self._base:
                yield self._base
        except sqlite3.Error as error:
            raise Unkept(f"what is underway cannot be kept in {self._path}: {error}") from error


def _part(row: tuple[int, str, str | None, float, int, str | None, str | None]) -> Part:
    number, provider, day, usd, sent, batch, files = row
    reserved = None if day is None else Reserved(date.fromisoformat(day), usd)
    return Part(number, provider, reserved, bool(sent), batch, None if files is None else tuple(files.split()))


def _asked(row: tuple[int, str, bytes, bytes, float]) -> Asked:
    number, key, text, shown, usd = row
    return Asked(number, key, _text(text), _text(shown), usd)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # half a pair may be in a review


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogatepass")
