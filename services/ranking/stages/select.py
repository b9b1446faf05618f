"""Select: the k best rows of a tiled score, with a running top-k. Equal scores: the lower row first.

Score and row are packed into one int64 key, whose order is exactly (score descending, row ascending); so the
result is that of a full sort, whatever the tiles.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from services.ranking.job import Job, Pick
from services.ranking.stages.score import Tiles

TilesOf = Callable[[list[int]], Tiles]  # which of the jobs -> their tiles

ABSENT: Final = torch.iinfo(torch.int64).min
LOW: Final = 0xFFFF_FFFF
SIGN: Final = 0x7FFF_FFFF


def fill(jobs: Sequence[Job], tiles_of: TilesOf, available: Tensor, tile_items: int) -> None:
    """Each job's picks: those that rank the whole catalogue together, the others each over its own rows."""
    whole = [at for at, job in enumerate(jobs) if job.rows is None]
    if whole:
        k = max(jobs[at].wanted for at in whole)
        found = best(tiles_of(whole), available, [jobs[at].banned for at in whole], k, tile_items)
        for at, picks in zip(whole, found, strict=True):
            jobs[at].picks = picks[: jobs[at].wanted]
    for at, job in enumerate(jobs):
        if job.rows is not None:
            job.picks = best_of(tiles_of([at]), available, job.rows, job.wanted, tile_items)


def best(tiles: Tiles, available: Tensor, banned: Sequence[set[int]], k: int, tile_items: int) -> list[list[Pick]]:
    """Of all N rows, each request's k best that are available (N,) and not banned for it; fewer where fewer are."""
    bans = _Bans(banned, available.device)
    keys = torch.full((len(banned), 0), ABSENT, device=available.device)
    for start in range(0, len(available), tile_items):
        rows = slice(start, min(start + tile_items, len(available)))
        scores = _masked(tiles(rows), available[rows])
        for request, row in bans.within(rows):
            scores[request, row - start] = -torch.inf
        keys = _larger(keys, scores, torch.arange(rows.start, rows.stop, device=available.device), k)
    return _picks(keys)


def best_of(tiles: Tiles, available: Tensor, rows: set[int], k: int, tile_items: int) -> list[Pick]:
    """Of the given rows, one request's k best that are available."""
    ordered = torch.tensor(sorted(rows), dtype=torch.int64, device=available.device)
    keys = torch.full((1, 0), ABSENT, device=available.device)
    for some in ordered.split(tile_items):
        if len(some):
            keys = _larger(keys, _masked(tiles(some), available[some]), some, k)
    return _picks(keys)[0]


class _Bans:
    """Which (request, row) pairs must not be picked, found by tile."""

    def __init__(self, banned: Sequence[set[int]], device: torch.device) -> None:
        pairs = sorted((row, request) for request, rows in enumerate(banned) for row in rows)
        self._rows = torch.tensor([row for row, _ in pairs], dtype=torch.int64, device=device)
        self._requests = torch.tensor([request for _, request in pairs], dtype=torch.int64, device=device)

    def within(self, rows: slice) -> Iterator[tuple[Tensor, Tensor]]:
        bounds = torch.searchsorted(self._rows, torch.tensor([rows.start, rows.stop], device=self._rows.device))
        first, last = bounds.tolist()
        if last > first:
            yield self._requests[first:last], self._rows[first:last]


def _masked(scores: Tensor, available: Tensor) -> Tensor:
    """(B, T), (T,): -inf where withdrawn, which is the score of what must not be picked. Works in place."""
    return scores if available.all() else scores.masked_fill_(~available, -torch.inf)


def _larger(held: Tensor, scores: Tensor, rows: Tensor, k: int) -> Tensor:
    """The k largest keys of those held and of a tile's scores (B, T), rows (T,); descending, (B, <= k)."""
    both = torch.cat([held, _tile(scores, rows, k)], dim=1)
    return both.topk(min(k, both.shape[1]), dim=1).values


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
    """(B, T) float32 and rows (T,) or (B, T) -> (B, T) int64; ABSENT where NaN or -inf."""
    scores = scores.contiguous() + 0.0  # -0.0 and 0.0 are equal scores but not equal bits
    bits = scores.view(torch.int32)
    ordered = bits ^ ((bits >> 31) & SIGN)  # the order of floats as the order of ints
    keys = (ordered.to(torch.int64) << 32) | (LOW - rows)
    return keys.masked_fill_(~(scores > -torch.inf), ABSENT)


def _picks(keys: Tensor) -> list[list[Pick]]:
    ordered = (keys >> 32).to(torch.int32)
    scores = (ordered ^ ((ordered >> 31) & SIGN)).view(torch.float32)
    rows = LOW - (keys & LOW)
    kept = (keys != ABSENT).sum(1).tolist()
    return [
        [Pick(row, score) for row, score in zip(row_list[:count], score_list[:count], strict=True)]
        for row_list, score_list, count in zip(rows.tolist(), scores.tolist(), kept, strict=True)
    ]
