"""Scan: the k best of all rows, exactly, with few of them scored.

A bound of each score from above is cheaper than the score. A row whose bound is below the request's floor, which k rows
are known to reach, is passed over: nearly every row. The rest is scored pair by pair, and raises the floor. A request
to which a large part of a tile comes near, since its scores are equal, rise with the rows, or are not bounded at all,
has that tile scored in full.
"""

from typing import Final

import torch
from torch import Tensor

from services.ranking.codes import BLOCK
from services.ranking.stages.allowed import Allowed
from services.ranking.stages.running import Running
from services.ranking.stages.score import Bounded, Scores

SMALL: Final = 1 << 12  # rows, of a tile and of the sample that gives the first floor, at least
SHARE: Final = 32  # of a tile, then
AT_ONCE: Final = 1 << 19  # products of a tile, of all requests: 2 MiB
CROWDED: Final = 8  # an eighth of a tile
GROWTH: Final = 2  # a floor is raised when twice as many rows have been seen as it is from
LARGEST: Final = torch.finfo(torch.float32).max  # a score may round to infinity while its bound does not


def scan(
    scores: Bounded, allowed: Allowed, k: int, tile_items: int, *, small: int = SMALL, at_once: int = AT_ONCE
) -> Running:
    """`tile_items`: how many are scored at once where a tile is scored in full."""
    found = Running(len(allowed), k, allowed.device)
    size = max(small, at_once // len(allowed) // BLOCK * BLOCK)
    known = max(small, min(size, allowed.rows) // SHARE, 2 * CROWDED * k)  # rows that the floor is from
    floor = sampled_floor(scores, allowed, k, known)
    waiting: list[tuple[Tensor, Tensor]] = []
    for start in range(0, allowed.rows, size):
        rows = slice(start, min(start + size, allowed.rows))
        requests, near = scores.near(rows, scores.units(floor))
        crowded = torch.bincount(requests, minlength=len(allowed)) > (rows.stop - rows.start) // CROWDED  # (B,)
        some_crowded = bool(crowded.any())
        if some_crowded:
            in_full(found, scores, allowed, rows, tile_items, crowded.nonzero()[:, 0])
            requests, near = requests[~crowded[requests]], near[~crowded[requests]]
        waiting.append((requests, near))
        many = sum(len(some) for some, _ in waiting) > at_once
        if some_crowded or many or rows.stop >= GROWTH * known or rows.stop == allowed.rows:
            score_pairs(found, scores, allowed, *map(torch.cat, zip(*waiting, strict=True)))
            waiting.clear()
            floor, known = torch.maximum(floor, found.floor().clamp_(max=LARGEST)), rows.stop
    return found


def score_pairs(found: Running, scores: Bounded, allowed: Allowed, requests: Tensor, rows: Tensor) -> None:
    """Score what is allowed of these pairs (M,)."""
    kept = allowed.pairs(requests, rows)
    requests, rows = requests[kept], rows[kept]
    found.offer_pairs(requests, rows, scores.pairs(requests, rows))


def in_full(
    found: Running, scores: Scores, allowed: Allowed, rows: slice, tile_items: int, requests: Tensor | None = None
) -> None:
    """Score all of these rows, for all requests or for those named, `tile_items` at once."""
    for start in range(rows.start, rows.stop, tile_items):
        some = slice(start, min(start + tile_items, rows.stop))
        tile = allowed.masked(scores.tile(some), some)
        numbers = torch.arange(some.start, some.stop, device=tile.device)
        if requests is None:
            found.offer(tile, numbers)
        else:
            found.offer(tile[requests], numbers, requests)


def sampled_floor(scores: Bounded, allowed: Allowed, k: int, rows: int) -> Tensor:
    """(B,): the least score of k rows, those with the largest bounds of about so many from all over the table."""
    step = max(1, allowed.rows // rows)
    some = slice(0, allowed.rows, step)
    upper = allowed.masked(scores.upper(some), some)
    if upper.shape[1] < k:
        return upper.new_full((len(upper),), -torch.inf)
    top = upper.topk(k, dim=1)  # (B, k)
    requests = torch.arange(len(upper)).repeat_interleave(k)
    least = scores.pairs(requests, step * top.indices.flatten()).view(-1, k).amin(1)
    return torch.where(least.isnan() | (top.values == -torch.inf).any(1), -torch.inf, least).clamp_(max=LARGEST)
