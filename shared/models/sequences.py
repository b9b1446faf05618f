"""A log as flat arrays, for models of item ids: who met which row of the catalogue when, and what is asked.

A position is asked only for items of the next strictly later time, so events of one time never explain each other, in
training as in evaluation.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Met = tuple[str, Sequence[int], Sequence[float]]  # a user, and rows and times of what they met, oldest first
EVENTS_AT_ONCE: Final = 1 << 20


@dataclass(frozen=True)
class Sequences:
    """Events of user b are [offsets[b], offsets[b + 1]), oldest first; M events, Q questions.

    Question q: what is asked of whom had seen everything up to event `asked_at[q]`, and nothing later, is row
    `asked_for[q]`. Questions are in order of `asked_at`.
    """

    users: Sequence[str]
    offsets: Ints  # (U + 1,)
    items: Ints  # (M,) rows of the catalogue
    times: NDArray[np.float64]  # (M,)
    asked_at: Ints  # (Q,) in [0, M)
    asked_for: Ints  # (Q,) rows

    def __len__(self) -> int:
        return len(self.users)

    def stretches(self, events: int = EVENTS_AT_ONCE) -> "Iterator[tuple[Ints, Ints, NDArray[np.float64]]]":
        """Whole users, about so many events at a time: places in `users`, rows, times, each (K,)."""
        start = 0
        while start < len(self):
            end = int(np.searchsorted(self.offsets, self.offsets[start] + events, "left"))
            end = min(max(end, start + 1), len(self))
            of = slice(int(self.offsets[start]), int(self.offsets[end]))
            lengths = np.diff(self.offsets[start : end + 1])
            yield np.repeat(np.arange(start, end), lengths), np.asarray(self.items[of]), np.asarray(self.times[of])
            start = end


def held(met: Iterable[Met], repeats: bool) -> Sequences:
    """In memory; users in the order that they come in."""
    users: list[str] = []
    offsets: list[int] = [0]
    items: list[int] = []
    times: list[float] = []
    asked_at: list[int] = []
    asked_for: list[int] = []
    for user_id, rows, at in met:
        users.append(user_id)
        for place, row in questions(rows, at, repeats):
            asked_at.append(offsets[-1] + place)
            asked_for.append(row)
        items += rows
        times += at
        offsets.append(len(items))
    return Sequences(
        users,
        np.array(offsets, np.int64),
        np.array(items, np.int64),
        np.array(times, np.float64),
        np.array(asked_at, np.int64),
        np.array(asked_for, np.int64),
    )


def questions(rows: Sequence[int], times: Sequence[float], repeats: bool) -> Iterator[tuple[int, int]]:
    """Of one user's events, oldest first: (place of the newest event that is seen, the row that is asked for)."""
    seen: set[int] = set()
    now = 0  # where the events of one time start
    for place, (row, ts) in enumerate(zip(rows, times, strict=True)):
        if ts > times[now]:  # a new moment: what was met at the last one is history from here on
            seen.update(rows[now:place])
            now = place
        if now and (repeats or row not in seen) and row not in rows[now:place]:
            yield now - 1, row
