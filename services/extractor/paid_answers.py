"""Answers that were paid for, on disk: an identical text is never paid for twice, across restarts.

Quotes of reviews are in it, so it is bounded in age as well as in number, and what is deleted is overwritten. A
database that is damaged is set aside: answers can be bought again.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from services.extractor import metrics
from services.extractor.findings import Failure, Finding
from shared import logs

R = TypeVar("R")
FILE: Final = "answers.sqlite"
DAY_SECONDS: Final = 86_400.0
SWEEP_SECONDS: Final = 3600.0  # between two looks for what is too old
KEYS_AT_ONCE: Final = 500  # SQLite takes so many parameters in every build
_SCHEMA: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS answers (
    provider TEXT NOT NULL, text TEXT NOT NULL, answer BLOB NOT NULL, paid_at REAL NOT NULL,
    PRIMARY KEY (provider, text)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_age ON answers (paid_at);
"""
log = logs.get(__name__)


class Kept(Struct, frozen=True, omit_defaults=True):
    """What the provider found, or why nothing it says of this text can be used."""

    findings: list[Finding] = []
    failure: Failure | None = None


class PaidAnswers:
    """By provider (whatever its answers depend on, but the text) and text (its hash). One process's or many's."""

    def __init__(self, folder: Path, most: int, days: float, clock: Callable[[], float] = time.time) -> None:
        """Keeps at most so many, for so long. Raises OSError where the folder cannot be."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._most = most
        self._seconds = days * DAY_SECONDS
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, "paid-answers")  # its thread alone has the connection
        self._database: sqlite3.Connection | None = None
        self._rows = 0  # in the database, as far as this process knows
        self._sweeping: asyncio.Task[None] | None = None
        self._pool.submit(self._sweep)  # an extractor that stood still for long begins with what is still allowed

    async def get(self, provider: str, texts: Sequence[str]) -> dict[str, Kept]:
        """Those that are known, by the text's hash."""
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep_on())
        found = await self._run(self._get, provider, texts)
        metrics.CACHE.labels("paid", "hit").inc(len(found))
        metrics.CACHE.labels("paid", "miss").inc(len(texts) - len(found))
        return found

    async def put(self, provider: str, text: str, kept: Kept) -> None:
        await self._run(self._put, provider, text, kept)

    async def sweep(self) -> None:
        """Delete what is too old, or too much."""
        await self._run(self._sweep)

    async def close(self) -> None:
        """Waits for what is being written."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        await self._run(self._close)
        self._pool.shutdown()

    async def _run(self, work: Callable[..., R], *args: object) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    async def _sweep_on(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    # From here on: in the thread.

    def _get(self, provider: str, texts: Sequence[str]) -> dict[str, Kept]:
        found: dict[str, Kept] = {}
        for start in range(0, len(texts), KEYS_AT_ONCE):
            rows = self._done(partial(self._select, provider, texts[start : start + KEYS_AT_ONCE]))
            for text, answer in rows or ():
                try:
                    found[text] = msgspec.json.decode(answer, type=Kept)
                except (msgspec.DecodeError, UnicodeError):  # as if it were not there: it is bought and written again
                    metrics.PAID_ANSWERS_TROUBLE.labels("damaged").inc()
        return found

    def _select(self, provider: str, texts: Sequence[str], database: sqlite3.Connection) -> list[tuple[str, bytes]]:
        marks = ",".join("?" * len(texts))
        sql = f"SELECT text, answer FROM answers WHERE provider = ? AND paid_at > ? AND text IN ({marks})"  # noqa: S608
        return database.execute(sql, [provider, self._oldest(), *texts]).fetchall()

    def _put(self, provider: str, text: str, kept: Kept) -> None:
        row = (provider, text, msgspec.json.encode(kept), self._clock())

        def write(database: sqlite3.Connection) -> None:
            with database:
                known = database.execute("SELECT 1 FROM answers WHERE provider = ? AND text = ?", row[:2]).fetchone()
                database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", row)
                self._rows += known is None
                self._trim(database)

        self._done(write)

    def _sweep(self) -> None:
        def delete(database: sqlite3.Connection) -> None:
            with database:
                database.execute("DELETE FROM answers WHERE paid_at <= ?", [self._oldest()])
                self._rows = _rows(database)
                self._trim(database)
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # what is deleted is in the log until then
            if self._aside.exists() and self._aside.stat().st_mtime <= self._oldest():
                self._aside.unlink()

        self._done(delete)

    def _trim(self, database: sqlite3.Connection) -> None:
        """The oldest go first."""
        if self._rows > self._most:
            database.execute(
                "DELETE FROM answers WHERE (provider, text) IN"
                " (SELECT provider, text FROM answers ORDER BY paid_at LIMIT ?)",
                [self._rows - self._most],
            )
            self._rows = self._most

    def _done(self, work: Callable[[sqlite3.Connection], R]) -> R | None:
        """None where the database cannot be used: it saves money, and no review waits for it."""
        try:
            try:
                return work(self._connection())
            except sqlite3.OperationalError:  # no room, locked: not damaged
                raise
            except sqlite3.DatabaseError as error:
                self._set_aside(error)
                return work(self._connection())
        except (sqlite3.Error, OSError) as error:
            metrics.PAID_ANSWERS_TROUBLE.labels("failed").inc()
            log.warning("answers that were paid for cannot be kept", file=str(self._path), error=str(error))
            return None

    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            database = sqlite3.connect(self._path)
            try:
                database.executescript(_SCHEMA)
                self._rows = _rows(database)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        metrics.PAID_ANSWERS_TROUBLE.labels("damaged").inc()
        log.error("the answers that were paid for are damaged and set aside", file=str(self._aside), error=str(error))
        self._close()
        self._path.replace(self._aside)
        for end in ("-wal", "-shm"):
            self._path.with_name(FILE + end).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _oldest(self) -> float:
        return self._clock() - self._seconds

    @property
    def _aside(self) -> Path:
        return self._path.with_name(f"{FILE}.damaged")


def _rows(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT count(*) FROM answers").fetchone()[0])
