"""Item-kNN: items that the same people met are alike (Sarwar et al., WWW 2001). Ranks offline only: a baseline.

sim(i, j) = cosine of the binary user columns; a user's score for j is the sum over the history's items i of
sim(i, j) for those j that are among the K most similar to i.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.graph.state import UserState

MAX_ITEMS = 20_000  # the similarities are dense: 1.6 GB here


class ItemKNN:
    def __init__(self, item_ids: Sequence[str], k: int = 100) -> None:
        """Raises ValueError for a catalogue of more than MAX_ITEMS items."""
        if len(item_ids) > MAX_ITEMS:
            raise ValueError(f"item-kNN holds at most {MAX_ITEMS} items, not {len(item_ids)}")
        self.row_of = {item_id: row for row, item_id in enumerate(item_ids)}
        self.k = min(k, max(0, len(item_ids) - 1))
        self.similar = torch.zeros(len(item_ids), len(item_ids))  # (N, N): row i holds i's K neighbours

    def fit(self, met: Sequence[Sequence[str]]) -> "ItemKNN":
        """`met`: each user's items; how often does not count."""
        together = torch.zeros_like(self.similar)
        for items in met:
            rows = torch.tensor(sorted({self.row_of[item] for item in items if item in self.row_of}), dtype=torch.int64)
            together[rows[:, None], rows] += 1
        users = together.diagonal().clone()  # (N,)
        cosine = together / torch.sqrt(users[:, None] * users).clamp(min=1)
        cosine.fill_diagonal_(0)
        kept = torch.topk(cosine, self.k).indices
        self.similar = torch.zeros_like(cosine).scatter(1, kept, cosine.gather(1, kept))
        return self

    def score(self, users: Sequence[UserState]) -> Tensor:
        """(B,) -> (B, N)."""
        met = torch.zeros(len(users), len(self.row_of))
        for b, user in enumerate(users):
            for slot in user.interactions:
                if slot.item_id in self.row_of:
                    met[b, self.row_of[slot.item_id]] = 1
        return met @ self.similar
