"""SKNN: what those met who met the same (session-kNN, Jannach and Ludewig, RecSys 2017; a session is a history here).

  sim(u, v) = |I_u and I_v| / sqrt(|I_u| |I_v|)            over the sets of items that both have met
  score(u, i) = sum over u's K most similar v of sim(u, v) [v met i]
v are sought among the users who were last seen newest of those that share an item with u; u is no neighbour of u.
Users are found through the items (posting lists), so memory grows with the log and never with users x users. Items of
the history score like others, as they must where they may be asked again. Ranks offline only: a baseline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.graph.state import UserState
from shared.models import choice
from shared.models.evaluation import Scorer, offline
from shared.models.fitting import Fitted, Run
from shared.models.sequences import Ints, Sequences
from shared.models.split import Split


@dataclass(frozen=True)
class Config:
    neighbours: tuple[int, ...] = (500, 50, 100, 200, 1000)  # K; validation chooses, the first where it cannot
    sample: int = 5000  # users who share an item, the newest


class SKNN:
    def __init__(self, row_of: dict[str, int], sequences: Sequences, clock: bool, k: int, sample: int) -> None:
        """`clock`: times tell who was seen last; without it the sample is not by time."""
        self.row_of, self.k, self.sample = row_of, k, sample
        self.place = {user_id: place for place, user_id in enumerate(sequences.users)}
        user = np.repeat(np.arange(len(sequences)), np.diff(sequences.offsets))
        self.user, self.item = np.unique(np.stack([user, sequences.items]), axis=1)  # each pair once, by user
        self.items_from = _starts(self.user, len(sequences))
        order = np.argsort(self.item, kind="stable")
        self.users_of = self.user[order]  # posting lists: users by item
        self.users_from = _starts(self.item[order], len(row_of))
        self.size = np.diff(self.items_from)
        self.seen = np.zeros(len(sequences))
        if clock:
            self.seen = sequences.times[sequences.offsets[1:] - 1]

    def score(self, users: Sequence[UserState]) -> Tensor:
        """(B,) -> (B, N)."""
        rows = [self._score(user) for user in users]
        return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, len(self.row_of))

    def _score(self, user: UserState) -> NDArray[np.float32]:  # -> (N,)
        met = np.array(sorted({self.row_of[s.item_id] for s in user.interactions if s.item_id in self.row_of}), int)
        near, similarity = self._neighbours(met, self.place.get(user.user_id, -1))
        at = _ranges(self.items_from[near], self.size[near])
        weights = np.repeat(similarity, self.size[near])
        return np.bincount(self.item[at], weights, len(self.row_of)).astype(np.float32)

    def _neighbours(self, met: Ints, own: int) -> tuple[Ints, NDArray[np.float64]]:
        """The K most similar users and their similarities; of equally similar ones those seen last."""
        start, end = self.users_from[met], self.users_from[met + 1]
        users, shared = np.unique(self.users_of[_ranges(start, end - start)], return_counts=True)
        users, shared = users[users != own], shared[users != own]
        newest = np.argsort(-self.seen[users], kind="stable")[: self.sample]
        users, shared = users[newest], shared[newest]
        similarity = shared / np.sqrt(max(1, len(met)) * self.size[users])
        best = np.argsort(-similarity, kind="stable")[: self.k]
        return users[best], similarity[best]


def _starts(sorted_: NDArray[Any], count: int) -> Ints:
    """(M,) ascending numbers below count -> (count + 1,): where each begins."""
    return np.searchsorted(sorted_, np.arange(count + 1)).astype(np.int64)


def _ranges(start: Ints, length: Ints) -> Ints:
    """start[0] .. start[0] + length[0] - 1, start[1] .. and so on."""
    before = np.cumsum(length) - length
    return np.repeat(start - before, length) + np.arange(int(length.sum()))


def fit(split: Split, config: Config, run: Run) -> Fitted:
    started = monotonic()

    def scorer_of(k: int) -> Scorer:
        return offline(SKNN(split.row_of, split.sequences, split.clock, k, config.sample).score)

    k = run.chosen["neighbours"] if run.chosen else choice.best(split, config.neighbours, scorer_of)[0]
    samples = len(split.sequences.items)
    return Fitted(scorer_of(k), {"neighbours": k}, samples=samples, seconds=monotonic() - started)
