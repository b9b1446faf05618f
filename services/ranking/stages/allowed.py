"""Allowed: which rows each request may be given. Asked while rows are scored, so k are found however few may be."""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.int64]


class Allowed:
    """Rows `available` (N,) bool to all, without each request's `banned`, and of `only` (N,) bool where it has one."""

    def __init__(
        self, available: Tensor, banned: Sequence[set[int]], only: Sequence[Tensor | None] | None = None
    ) -> None:
        self._available = available
        self._only = {at: rows for at, rows in enumerate(only or ()) if rows is not None}
        self._banned = banned

    def __len__(self) -> int:
        """How many requests."""
        return len(self._banned)

    @property
    def device(self) -> torch.device:
        return self._available.device

    @property
    def rows(self) -> int:
        """N."""
        return len(self._available)

    @cached_property
    def banned(self) -> tuple[Numbers, Numbers]:
        """The banned rows (M,) of one request after the other, and where each one's end (B,)."""
        rows = np.array(list(chain.from_iterable(self._banned)), np.int64)
        return rows, np.array(list(accumulate(map(len, self._banned))), np.int64)

    def masks(self) -> tuple[NDArray[np.bool_], Numbers]:
        """Without what is banned: masks (M, N), and which of them is each request's (B,). On a CPU."""
        which = np.zeros(len(self), np.int64)
        if not self._only:
            return self._available[None].numpy(), which
        which[list(self._only)] = np.arange(1, len(self._only) + 1)
        return torch.stack([self._available, *(self._available & only for only in self._only.values())]).numpy(), which

    @cached_property
    def _pairs(self) -> Tensor:
        """(M,): banned rows and their requests, as one number each, ascending."""
        rows, ends = self.banned
        requests = np.repeat(np.arange(len(self)), np.diff(ends, prepend=0))
        return torch.from_numpy(np.sort(rows * len(self) + requests)).to(self.device)

    def masked(self, scores: Tensor, rows: slice) -> Tensor:
        """(B, T) scores of these rows, in place: -inf, which is never picked, where a row is not allowed."""
        available = self._available[rows]
        if not available.all():
            scores.masked_fill_(~available, -torch.inf)
        for request, only in self._only.items():
            scores[request].masked_fill_(~only[rows], -torch.inf)
        within = self._pairs.new_tensor([rows.start, rows.stop]) * len(self)
        first, last = torch.searchsorted(self._pairs, within).tolist()
        if last > first:
            some = self._pairs[first:last]
            away = some // len(self) - rows.start
            step = rows.step or 1
            hit = away % step == 0
            scores[some[hit] % len(self), away[hit] // step] = -torch.inf
        return scores

    def pairs(self, requests: Tensor, rows: Tensor) -> Tensor:
        """(M,) bool: whether the request may be given the row."""
        allowed = self._available[rows]
        for request, only in self._only.items():
            allowed &= (requests != request) | only[rows]
        if len(self._pairs):
            asked = rows * len(self) + requests
            found = torch.searchsorted(self._pairs, asked).clamp_(max=len(self._pairs) - 1)
            allowed &= self._pairs[found] != asked
        return allowed
