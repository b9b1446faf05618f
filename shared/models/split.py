"""What a fit may see and what it is asked: one object for every model and baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import numpy as np
from torch import Tensor

from shared.events import Interaction
from shared.graph.state import ItemNode
from shared.models import sequence_store
from shared.models.dataset import Case, Logged, cases, items_before
from shared.models.features import Schema, contents, history_rows, padded
from shared.models.sequences import Ints, Sequences, held

FOREVER: Final = float("inf")


@dataclass(frozen=True)
class Split:
    """A training log, whole, and cases later than it that a fit chooses by. Nothing of the test is in here."""

    log: Logged
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

    def newest(self, interactions: int) -> list[Case]:
        """The cases of the newest `interactions` of the log, and of those at the time of the first of them."""
        if self.log.interactions <= interactions:
            return self.training
        return cases(self.log, self.log.times[-interactions], FOREVER, self.repeats)

    @cached_property
    def counts(self) -> Ints:
        """(N,) distinct users who met the item in the log."""
        counts = np.zeros(len(self.items), np.int64)
        for users, rows, _ in self.sequences.stretches():
            counts += np.bincount(np.unique(np.stack([users, rows]), axis=1)[1], minlength=len(counts))
        return counts

    @cached_property
    def content(self) -> Tensor:
        """(N, E) float32: the items' text embeddings, of unit length, or zero where nothing is known."""
        return contents(self.items, self.schema.embedding_dim)

    @cached_property
    def sequences(self) -> Sequences:
        """Every user of the log with at least one interaction; on disk where the log is."""
        met = (
            (user_id, [self.row_of[fact.item_id] for fact in told], [fact.ts for fact in told])
            for user_id, facts in self.log.users()
            if (told := [fact for _, fact in facts if isinstance(fact, Interaction)])
        )
        if self.log.spool is None:
            return held(met, self.repeats)
        return sequence_store.write(Path(mkdtemp(prefix="split-", dir=self.log.spool)) / "sequences", met, self.repeats)


def histories(
    cases_: Sequence[Case], row_of: dict[str, int], longest: int, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Rows (B, L) int64 oldest first from column 0, and which columns are real (B, L) bool; L is at least 1."""
    return padded([history_rows(case.user, row_of, longest) for case in cases_], device)
