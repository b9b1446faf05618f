"""Item-kNN: items that the same people met are alike (Sarwar et al., WWW 2001). Ranks offline only: a baseline.

sim(i, j) = cosine of the binary user columns, with shrinkage n_ij / (sqrt(n_i n_j) + h) where few met both; a user's
score for j is the sum over the history's items i of sim(i, j) for those j that are among the K most similar to i.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from time import monotonic

import torch
from torch import Tensor

from shared.graph.state import UserState
from shared.models import choice
from shared.models.evaluation import Scorer, offline
from shared.models.fitting import Fitted, Run
from shared.models.split import Split

MAX_ITEMS = 20_000  # the similarities are dense: 1.6 GB here


@dataclass(frozen=True)
class Config:
    """Of each, what validation chooses from; the first where there is nothing to choose by."""

    neighbours: tuple[int, ...] = (100, 20, 500)
    shrink: tuple[float, ...] = (0.0, 20.0, 200.0)


class ItemKNN:
    def __init__(self, item_ids: Sequence[str], k: int = 100, shrink: float = 0.0, repeats: bool = False) -> None:
        """`repeats`: an item is its own neighbour too, for where an item that was met may be asked again.

        Raises ValueError for a catalogue of more than MAX_ITEMS items.
        """
        if len(item_ids) > MAX_ITEMS:
            raise ValueError(f"item-kNN holds at most {MAX_ITEMS} items, not {len(item_ids)}")
        self.row_of = {item_id: row for row, item_id in enumerate(item_ids)}
        self.k = min(k, max(0, len(item_ids) - 1))
        self.shrink, self.repeats = shrink, repeats
        self.similar = torch.zeros(len(item_ids), len(item_ids))  # (N, N): row i holds i's K neighbours

    def fit(self, met: Sequence[Sequence[str]]) -> "ItemKNN":
        """`met`: each user's items; how often does not count."""
        return self.fit_together(together(met, self.row_of))

    def fit_together(self, together: Tensor) -> "ItemKNN":
        """`together` (N, N): how many users met both."""
        users = together.diagonal()  # (N,)
        cosine = together / (torch.sqrt(users[:, None] * users) + self.shrink).clamp(min=1)
        own = cosine.diagonal().clone()
        cosine.fill_diagonal_(0)
        kept = torch.topk(cosine, self.k)
        self.similar = torch.zeros_like(cosine).scatter_(1, kept.indices, kept.values)
        if self.repeats:
            self.similar.diagonal().copy_(own)
        return self

    def score(self, users: Sequence[UserState]) -> Tensor:
        """(B,) -> (B, N)."""
        scores = torch.zeros(len(users), len(self.row_of))
        for b, user in enumerate(users):
            met = sorted({self.row_of[slot.item_id] for slot in user.interactions if slot.item_id in self.row_of})
            torch.sum(self.similar[met], 0, out=scores[b])
        return scores


def together(met: Iterable[Sequence[str]], row_of: dict[str, int]) -> Tensor:
    """(N, N): how many users met both."""
    counts = torch.zeros(len(row_of), len(row_of))
    for items in met:
        rows = torch.tensor(sorted({row_of[item] for item in items if item in row_of}), dtype=torch.int64)
        counts[rows[:, None], rows] += 1
    return counts


def fit(split: Split, config: Config, run: Run) -> Fitted:
    """Raises ValueError for a catalogue of more than MAX_ITEMS items."""
    started = monotonic()
    ids = [node.item_id for node in split.items]
    ItemKNN(ids[: MAX_ITEMS + 1])  # refuses before anything large is made
    s = split.sequences
    met = ([ids[row] for row in s.items[start:end]] for start, end in pairwise(s.offsets))
    counts = together(met, split.row_of)

    def scorer_of(setting: tuple[int, float]) -> Scorer:
        k, shrink = setting
        return offline(ItemKNN(ids, k, shrink, split.repeats).fit_together(counts).score)

    if run.chosen:
        setting = (run.chosen["neighbours"], run.chosen["shrink"])
    else:
        setting, _ = choice.best(split, list(product(config.neighbours, config.shrink)), scorer_of)
    chosen = {"neighbours": setting[0], "shrink": setting[1]}
    return Fitted(scorer_of(setting), chosen, samples=len(s.items), seconds=monotonic() - started)
