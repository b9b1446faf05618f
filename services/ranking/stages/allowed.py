"""Allowed: which rows each request may be given. Asked while rows are scored, so k are found however few may be."""

from collections.abc import Sequence

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
        pairs = sorted((row, request) for request, rows in enumerate(banned) for row in rows)
        device = available.device
        self._rows = torch.tensor([row for row, _ in pairs], dtype=torch.int64, device=device)
        self._of = torch.tensor([request for _, request in pairs], dtype=torch.int64, device=device)
        self._pairs = self._rows * self._requests + self._of  # ascending

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
