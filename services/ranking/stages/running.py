"""The k best of each request so far. Equal scores: the lower row first.

Score and row are packed into one int64 key, whose order is exactly (score descending, row ascending); so the
result is that of a full sort, in whatever order and parts scores are offered.
"""

from typing import Final

import torch
from torch import Tensor

from services.ranking.job import Pick

ABSENT: Final = torch.iinfo(torch.int64).min
LOW: Final = 0xFFFF_FFFF
SIGN: Final = 0x7FFF_FFFF


class Running:
    """Of `requests` requests, on `device`. What has no score (NaN) or -inf is never picked."""

    def __init__(self, requests: int, k: int, device: torch.device) -> None:
        self._keys = torch.full((requests, k), ABSENT, device=device)  # (B, k), descending

    def offer(self, scores: Tensor, rows: Tensor, requests: Tensor | slice = slice(None)) -> None:
        """Scores (R, T) of rows (T,), for all requests or for those named (R,); no row is offered twice."""
        self._join(_tile(scores, rows, self._keys.shape[1]), requests)

    def offer_pairs(self, requests: Tensor, rows: Tensor, scores: Tensor) -> None:
        """Scores (M,) of one request and row each."""
        self._join(aligned(requests, _keys(scores, rows), len(self._keys), ABSENT), slice(None))

    def floor(self) -> Tensor:
        """(B,) float32: a row after all those offered is among the k best only if its score is at least this."""
        last = self._keys[:, -1]
        above = torch.nextafter(_scores(last), torch.tensor(torch.inf, device=last.device))
        return torch.where(last == ABSENT, -torch.inf, above)

    def picks(self) -> list[list[Pick]]:
        rows = LOW - (self._keys & LOW)
        kept = (self._keys != ABSENT).sum(1).tolist()
        return [
            [Pick(row, score) for row, score in zip(row_list[:count], score_list[:count], strict=True)]
            for row_list, score_list, count in zip(rows.tolist(), _scores(self._keys).tolist(), kept, strict=True)
        ]

    def _join(self, keys: Tensor, requests: Tensor | slice) -> None:
        both = torch.cat([self._keys[requests], keys], dim=1)
        self._keys[requests] = both.topk(self._keys.shape[1], dim=1).values


def aligned(requests: Tensor, values: Tensor, count: int, absent: float) -> Tensor:
    """Values (M,) of requests (M,) -> (count, most of one request), a row a request, filled up with `absent`."""
    counts = torch.bincount(requests, minlength=count)  # (B,)
    order = requests.argsort(stable=True)
    place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[requests[order]]
    rows = values.new_full((count, int(counts.max())), absent)
    rows[requests[order], place] = values[order]
    return rows


def _tile(scores: Tensor, rows: Tensor, k: int) -> Tensor:
    """The keys that may be among the k largest: of k scores where it is plain which they are, else of all."""
    if scores.shape[1] > k:
        top = scores.topk(k, dim=1, sorted=False)
        least = top.values.amin(1, keepdim=True)
        tied = ((scores >= least).sum(1, keepdim=True) > k) & (least > -torch.inf)
        if not (tied | top.values.isnan().any(1, keepdim=True)).any():
            return _keys(top.values, rows[top.indices])
    return _keys(scores, rows)


def _keys(scores: Tensor, rows: Tensor) -> Tensor:
    """float32 and rows, of shapes that fit each other -> int64; ABSENT where NaN or -inf."""
    scores = scores.contiguous() + 0.0  # -0.0 and 0.0 are equal scores but not equal bits
    bits = scores.view(torch.int32)
    ordered = bits ^ ((bits >> 31) & SIGN)  # the order of floats as the order of ints
    keys = (ordered.to(torch.int64) << 32) | (LOW - rows)
    return keys.masked_fill_(~(scores > -torch.inf), ABSENT)


def _scores(keys: Tensor) -> Tensor:
    ordered = (keys >> 32).to(torch.int32)
    return (ordered ^ ((ordered >> 31) & SIGN)).view(torch.float32)
