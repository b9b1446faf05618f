"""Sequences to batches: every question of the log once an epoch, many of them in one row.

A row is a stretch of one user's events with every question that is asked along it, so that a causal model answers
them all in one pass. Rows of like length share a batch, which is therefore hardly padded. What an epoch holds in
memory is one pool of users, however long the log is: its arrays may be memory-mapped (see `sequence_store`).

Shapes: B rows, L events of a row, Q questions of a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.models.sequences import Ints, Sequences

BLOCK: Final = 4096  # users that are read at once: neighbours in the log, so a disk reads them in one go
POOL: Final = 16  # blocks, drawn at random, whose rows are shuffled together
BUCKETED: Final = 64  # batches' worth of rows, drawn at random, that are sorted by length


@dataclass(frozen=True)
class Batch:
    """Rows are oldest first from column 0. `asked[q]` is the row and the column after which `targets[q]` is asked."""

    history: Tensor  # (B, L) int64: rows of the catalogue, 0 in padding
    real: Tensor  # (B, L) bool
    asked: Tensor  # (Q, 2) int64, in order of rows
    targets: Tensor  # (Q,) int64
    users: Tensor  # (B,) int64: places in Sequences.users
    first: Tensor  # (B,) int64: where in Sequences.items the row starts

    def __len__(self) -> int:
        return len(self.targets)

    def share(self, rank: int, world: int) -> "Batch":
        """Every `world`-th row from `rank` on, with its questions."""
        mine = self.asked[:, 0] % world == rank
        asked = self.asked[mine].clone()
        asked[:, 0] //= world
        rows = slice(rank, None, world)
        history, real = self.history[rows], self.real[rows]
        return Batch(history, real, asked, self.targets[mine], self.users[rows], self.first[rows])


@dataclass(frozen=True)
class _Rows:
    """Row r: `length` events of `user` from `first` on, and the questions [question, question + questions)."""

    user: Ints
    first: Ints
    length: Ints
    question: Ints
    questions: Ints

    def __getitem__(self, at: Ints) -> "_Rows":
        return _Rows(self.user[at], self.first[at], self.length[at], self.question[at], self.questions[at])

    def __len__(self) -> int:
        return len(self.user)


class SequenceBatches:
    """Batches of at most `batch` rows.

    A question sees all events before it, up to `longest`. Where a history is longer, rows start every `stride`
    events, so a question sees its newest `longest - stride + 1` to `longest` events. `stride=1` is exact and costs a
    row for each later position. `alone`: every question has a row of its own.
    """

    def __init__(
        self,
        sequences: Sequences,
        longest: int,
        batch: int,
        device: str = "cpu",
        alone: bool = False,
        stride: int | None = None,
    ) -> None:
        self.sequences, self.longest, self.batch, self.device, self.alone = sequences, longest, batch, device, alone
        self.stride = max(1, longest // 2) if stride is None else stride
        if longest < 1 or batch < 1 or not 1 <= self.stride <= longest:
            raise ValueError(f"no batches of {batch} rows of {longest} events, every {self.stride}")

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Every question once, in an order that `rng` alone decides."""
        blocks = rng.permutation(-(-len(self.sequences) // BLOCK))
        for start in range(0, len(blocks), POOL):
            pool = _joined([self._rows(int(block) * BLOCK) for block in blocks[start : start + POOL]])
            cuts = list(self._bucketed(pool, rng))
            for at in rng.permutation(len(cuts)):
                yield self._batch(pool[cuts[at]])

    def _bucketed(self, rows: _Rows, rng: np.random.Generator) -> Iterator[Ints]:
        order = rng.permutation(len(rows))
        for start in range(0, len(order), self.batch * BUCKETED):
            bucket = order[start : start + self.batch * BUCKETED]
            bucket = bucket[np.argsort(rows.length[bucket], kind="stable")]
            yield from (bucket[at : at + self.batch] for at in range(0, len(bucket), self.batch))

    def _rows(self, start: int) -> _Rows:
        """Rows of the block of users from `start` on."""
        s = self.sequences
        offsets = np.asarray(s.offsets[start : start + BLOCK + 1])
        low, high = np.searchsorted(s.asked_at, offsets[[0, -1]])
        asked = np.asarray(s.asked_at[low:high])  # (Q',)
        place = np.searchsorted(offsets, asked, side="right") - 1  # of the user in the block
        before = asked - offsets[place]  # events before the newest that the question sees
        piece = np.where(before < self.longest, 0, 1 + (before - self.longest) // self.stride)
        new = np.ones(len(asked), np.bool_)
        if not self.alone:
            new[1:] = (place[1:] != place[:-1]) | (piece[1:] != piece[:-1])
        at = np.flatnonzero(new)
        end = np.append(at, len(asked))[1:]
        last = asked[end - 1]  # the newest event that a question of the row sees
        first = np.maximum(offsets[place[at]], last + 1 - self.longest)
        return _Rows(start + place[at], first, last + 1 - first, low + at, end - at)

    def _batch(self, rows: _Rows) -> Batch:
        s = self.sequences
        columns = np.arange(rows.length.max())
        real = columns < rows.length[:, None]  # (B, L)
        history = np.zeros(real.shape, np.int64)
        history[real] = s.items[(rows.first[:, None] + columns)[real]]
        row = np.repeat(np.arange(len(rows)), rows.questions)  # (Q,)
        question = np.repeat(rows.question - np.cumsum(rows.questions) + rows.questions, rows.questions)
        question += np.arange(len(row))
        asked = np.stack([row, s.asked_at[question] - rows.first[row]], 1)
        return Batch(
            self._tensor(history),
            self._tensor(real),
            self._tensor(asked),
            self._tensor(s.asked_for[question]),
            self._tensor(rows.user),
            self._tensor(rows.first),
        )

    def _tensor(self, array: NDArray[np.int64] | NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(np.asarray(array)).to(self.device, non_blocking=True)


def _joined(parts: list[_Rows]) -> _Rows:
    return _Rows(
        np.concatenate([part.user for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.length for part in parts]),
        np.concatenate([part.question for part in parts]),
        np.concatenate([part.questions for part in parts]),
    )
