"""The texts of the reviews of a log on disk, for as long as a job works: memory does not grow with the log.

In SQLite's own temporary file, which has no name: nothing is left of it, however the job ends.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

AT_ONCE: Final = 500  # keys of one question; SQLite takes some thousands


class ReviewTexts:
    """What each review is known by (reviews.embedded_text), by the content hash that its opinions carry."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("")
        self._base.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE texts (hash TEXT PRIMARY KEY, text BLOB NOT NULL) WITHOUT ROWID;"
        )

    def keep(self, texts: Iterable[tuple[str, str]]) -> None:
        rows = ((key, text.encode("utf-8", "surrogatepass")) for key, text in texts)
        self._base.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?)", rows)

    def find(self, keys: Sequence[str]) -> Mapping[str, str]:
        """The texts of those that are known."""
        found: dict[str, str] = {}
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = self._base.execute(f"SELECT hash, text FROM texts WHERE hash IN ({marks})", some)  # noqa: S608
            found |= {key: bytes(text).decode("utf-8", "surrogatepass") for key, text in rows}
        return found

    def close(self) -> None:
        self._base.close()
