"""Reads the files that data sets are published as, gzip or not, line by line, into events for `read_log`.

Ids come from line numbers, so reading a file twice yields the same facts. A line that is not what it should be is
told to `on_bad` and passed over. Where a file has no times, its order stands for them: an event's time is then a
second for every event before it, counted from the earliest time there is.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared import logs
from shared.archive import events_of
from shared.events import EARLIEST, MAX_ID_CHARS, Event, Interaction
from shared.local.reviews import OnBad, numbered_lines, read_items, read_reviews
from shared.topics import ERASURES, INTERACTIONS, ITEM_SEMANTICS, ITEMS, OPINIONS

FACTS: Final = (INTERACTIONS, OPINIONS, ITEMS, ITEM_SEMANTICS, ERASURES)  # topics that a log is made of
LATEST: Final = 4_102_444_800.0  # 2100-01-01: a later time is of another unit
log = logs.get(__name__)


class BadLines:
    """An OnBad that counts, and tells once, at the end."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._first = ""

    def __call__(self, number: int, why: str) -> None:
        self.count += 1
        self._first = self._first or f"line {number}: {why}"

    def tell(self) -> None:
        if self.count:
            log.warning("lines were passed over", file=self._path.name, lines=self.count, first=self._first)


def read_amazon(reviews: Path, items: Path | None, on_bad: OnBad, on_bad_item: OnBad) -> Iterator[Event]:
    """Interactions of a review file and items of its metadata; opinions are the extractor's to find."""
    for interaction, _ in read_reviews(reviews, on_bad):
        yield interaction
    if items is not None:
        yield from read_items(items, on_bad_item)


def read_interactions(path: Path, on_bad: OnBad) -> Iterator[Interaction]:
    """Lines `user item`, in order of time, or `user item seconds-since-1970`: all of one file alike."""
    timed = has_times(path)
    for number, line in numbered_lines(path):
        try:
            fields = _fields(line)
            if len(fields) != 2 + timed:
                raise ValueError(f"{len(fields)} fields where the first line has {2 + timed}")
            ts = _time(fields[2]) if timed else EARLIEST + number
        except ValueError as error:
            on_bad(number, str(error))
            continue
        yield Interaction(event_id=f"i{number}", user_id=fields[0], item_id=fields[1], ts=ts)


def read_sequences(path: Path, on_bad: OnBad) -> Iterator[Interaction]:
    """Lines `user item item ...`, oldest first, as S3-Rec publishes its sets."""
    place = 0
    for number, line in numbered_lines(path):
        try:
            user_id, *items = _fields(line)
            if not items:
                raise ValueError("a user without items")
        except ValueError as error:
            on_bad(number, str(error))
            continue
        for item_id in items:
            place += 1
            yield Interaction(event_id=f"i{place}", user_id=user_id, item_id=item_id, ts=EARLIEST + place)


def read_archive(url: str, space: str) -> Iterator[Event]:
    """The facts of an event log, as the archiver keeps it."""
    return (event for event, _ in events_of(url, FACTS, space=space))


def has_times(path: Path) -> bool:
    """Whether the lines of an interactions file carry a time: its first line decides."""
    for _, line in numbered_lines(path):
        return len(line.split()) == 3
    return False


def _fields(line: bytes) -> list[str]:
    fields = line.decode().split()  # what is not UTF-8 raises a ValueError
    if max(map(len, fields)) > MAX_ID_CHARS:
        raise ValueError(f"an id of more than {MAX_ID_CHARS} characters")
    return fields


def _time(field: str) -> float:
    ts = float(field)
    if not (math.isfinite(ts) and EARLIEST <= ts < LATEST):
        raise ValueError(f"{field} is no time in seconds since 1970 between 1995 and 2100")
    return ts
