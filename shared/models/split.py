"""What a fit may see and what it is asked: one object for every model and baseline.

`Sequences` is the same log as flat arrays, for models of item ids: who met which row of the catalogue when, and
which later item each position is asked for. A position is asked only for items of the next strictly later time,
so events of one time never explain each other, in training as in evaluation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shared.events import Interaction
from shared.graph.state import ItemNode
from shared.models.dataset import Case, Log, cases, items_before
from shared.models.features import Schema, contents, history_rows, padded

Ints = NDArray[np.int64]
FOREVER: Final = float("inf")


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


@dataclass(frozen=True)
class Split:
    """A training log, whole, and cases later than it that a fit chooses by. Nothing of the test is in here."""

    log: Log
    space: str
    schema: Schema
    at: float = FOREVER  # the catalogue is what is known strictly before; every fact of the log is
    held_out: Sequence[Case] = ()  # validation; empty where all has been chosen
    repeats: bool = False  # items of the history may be targets, and are not masked
    clock: bool = True  # event times are of one calendar; False: they only order a user's own events
    nodes: dict[str, ItemNode] = field(default_factory=dict, repr=False)  # items to know beyond the log's own

    @cached_property
    def items(self) -> list[ItemNode]:
        """The catalogue as of `at`, by id."""
        found = {node.item_id: node for node in items_before(self.log, self.at)}
        return [found.get(i, self.nodes.get(i, ItemNode(i))) for i in sorted({*found, *self.nodes})]

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {node.item_id: row for row, node in enumerate(self.items)}

    @cached_property
    def training(self) -> list[Case]:
        """Every case of the log."""
        return cases(self.log, -FOREVER, FOREVER, self.repeats)

    @cached_property
    def counts(self) -> Ints:
        """(N,) distinct users who met the item in the log."""
        pairs = {(user, row) for user, row in zip(self._users_of_events, self.sequences.items.tolist(), strict=True)}
        rows = np.fromiter((row for _, row in pairs), np.int64, len(pairs))
        return np.bincount(rows, minlength=len(self.items)).astype(np.int64)

    @cached_property
    def content(self) -> Tensor:
        """(N, E) float32: the items' text embeddings, of unit length, or zero where nothing is known."""
        return contents(self.items, self.schema.embedding_dim)

    @cached_property
    def sequences(self) -> Sequences:
        """Every user of the log with at least one interaction."""
        users: list[str] = []
        offsets: list[int] = [0]
        items: list[int] = []
        times: list[float] = []
        asked_at: list[int] = []
        asked_for: list[int] = []
        for user_id in sorted(self.log.by_user):
            events = [fact for _, fact in self.log.by_user[user_id] if isinstance(fact, Interaction)]
            if not events:
                continue
            users.append(user_id)
            rows, at = [self.row_of[event.item_id] for event in events], [event.ts for event in events]
            for place, row in questions(rows, at, self.repeats):
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

    @property
    def _users_of_events(self) -> list[int]:
        offsets = self.sequences.offsets
        return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)).tolist()


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


def histories(
    cases_: Sequence[Case], row_of: dict[str, int], longest: int, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Rows (B, L) int64 oldest first from column 0, and which columns are real (B, L) bool; L is at least 1."""
    return padded([history_rows(case.user, row_of, longest) for case in cases_], device)
