"""Allowed: which rows each request may be given. Asked while rows are scored, so k are found however few may be."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor


class Allowed:
    """Rows `available` (N,) bool to all, without each request's `banned`, and of `only` (N,) bool where it has one."""

    def __init__(
        self, available: Tensor, banned: Sequence[set[int]], only: Sequence[Tensor | None] | None = None
    ) -> None:
        self._available = available
        self._only = {at: rows for at, rows in enumerate(only or ()) if rows is not None}
        self._requests = len(banned)
        counts = [len(rows) for rows in banned]
        rows = np.fromiter(chain.from_iterable(banned), np.int64, sum(counts))
        pairs = np.sort(rows * self._requests + np.repeat(np.arange(self._requests), counts))
        self._pairs = torch.from_numpy(pairs).to(available.device)
        self._rows, self._of = self._pairs // max(1, self._requests), self._pairs % max(1, self._requests)

    def __len__(self) -> int:
        """How many requests."""
        return self._requests

    @property
    def device(self) -> torch.device:
        return self._available.device

    @property
    def rows(self) -> int:
        """N."""
        return len(self._available)

    def masked(self, scores: Tensor, rows: slice) -> Tensor:
        """(B, T) scores of these rows, in place: -inf, which is never picked, where a row is not allowed."""
        available = self._available[rows]
        if not available.all():
            scores.masked_fill_(~available, -torch.inf)
        for request, only in self._only.items():
            scores[request].masked_fill_(~only[rows], -torch.inf)
        first, last = torch.searchsorted(self._rows, self._rows.new_tensor([rows.start, rows.stop])).tolist()
        if last > first:
            away = self._rows[first:last] - rows.start
            step = rows.step or 1
            hit = away % step == 0
            scores[self._of[first:last][hit], away[hit] // step] = -torch.inf
        return scores

    def pairs(self, requests: Tensor, rows: Tensor) -> Tensor:
        """(M,) bool: whether the request may be given the row."""
        allowed = self._available[rows]
        for request, only in self._only.items():
            allowed &= (requests != request) | only[rows]
        if len(self._pairs):
            asked = rows * self._requests + requests
            found = torch.searchsorted(self._pairs, asked).clamp_(max=len(self._pairs) - 1)
            allowed &= self._pairs[found] != asked
        return allowed
