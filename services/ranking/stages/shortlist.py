"""Shortlist: the k best of a table so small that one loop over the bounds of all its rows costs less than a scan.

As in scan.py a row whose bound (codes.py) is below a floor is passed over, and the rest is scored exactly. The rows are
dealt to many groups. Rows that reach the k-th largest of the groups' largest bounds are scored first: they are k or a
few more, and the k-th best of their scores is the floor.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.ranking.codes import BLOCK
from services.ranking.job import Pick
from services.ranking.stages.allowed import Allowed
from services.ranking.stages.scan import LARGEST
from services.ranking.stages.score import OnCpu
from services.ranking.stages.sums import Doubles, Floats, Numbers, of_rows
from shared.native import exact

NUMBERS: Final = 3 << 20  # of a table, which caches hold in one byte each
SCORES: Final = 1 << 21  # of all requests: 8 MiB
GROUPS: Final = 256  # at least, and FOR_EACH for each of the k
FOR_EACH: Final = 4

Bools = NDArray[np.bool_]
Integers = NDArray[np.int32]


def fits(scores: OnCpu, allowed: Allowed) -> bool:
    return scores.vectors.numel() <= NUMBERS and 0 < len(allowed) * allowed.rows <= SCORES


def shortlist(scores: OnCpu, allowed: Allowed, k: int) -> list[list[Pick]]:
    """Of all rows, each request's k best that it is allowed; fewer where fewer are."""
    if (len(scores.users), len(scores.vectors)) != (len(allowed), allowed.rows):
        raise ValueError("the scores and what is allowed are of other requests or other rows")  # no loop would notice
    shape, bounds = (len(allowed), min(k, allowed.rows)), scores.bounds
    counts, rows, found = np.empty(len(allowed), np.int64), np.empty(shape, np.int64), np.empty(shape, np.float32)
    _find(
        bounds.integers().numpy(), bounds.columns, bounds.factors, scores.doubles, scores.vectors.numpy(),
        scores.bias.numpy(), *allowed.masks(), *allowed.banned, counts, rows, found,
    )  # fmt: skip
    columns = zip(counts.tolist(), rows.tolist(), found.tolist(), strict=True)
    return [list(map(Pick, some[:count], their[:count])) for count, some, their in columns]


@exact
def _find(
    integers: Integers, columns: tuple[Floats, Floats, Floats, Floats], factors: Floats, users: Doubles,
    vectors: Floats, bias: Floats, masks: Bools, mask_of: Numbers, banned: Numbers, ends: Numbers, counts: Numbers,
    rows: Numbers, scores: Floats,
) -> None:  # fmt: skip
    """Fill in how many were found of each request, which rows (B, k), and their scores; k is at least 1."""
    n, k = len(bias), rows.shape[1]
    able, upper = np.empty(n, np.bool_), np.empty(n, np.float32)
    near, exactly = np.empty(n, np.int64), np.empty(n, np.float32)
    start = 0
    for request in range(len(users)):
        mask = masks[mask_of[request]]
        for row in range(n):  # takes a fiftieth of a slice's assignment
            able[row] = mask[row]
        for at in range(start, ends[request]):
            if 0 <= banned[at] < n:
                able[banned[at]] = False
        start = ends[request]
        _bound(integers[request], columns, factors[request], able, upper)
        largest = _largest(upper, min(n, max(GROUPS, FOR_EACH * k)))
        likely = _reaching(upper, largest, _kth(largest, k), near, 0)
        of_rows(users, request, vectors, bias, near[:likely], exactly[:likely])
        floor = min(_kth(exactly[:likely], k), np.float32(LARGEST)) * factors[request, 0]
        for at in range(likely):
            upper[near[at]] = -np.inf  # it is scored
        count = _reaching(upper, largest, floor, near, likely)
        of_rows(users, request, vectors, bias, near[likely:count], exactly[likely:count])
        counts[request] = _sorted(near[:count], exactly[:count], rows[request], scores[request])


@exact
def _bound(
    integers: Integers, columns: tuple[Floats, Floats, Floats, Floats], factors: Floats, able: Bools, upper: Floats
) -> None:
    """upper (N,): no score is larger, in the user's units; -inf where a row may not be given, infinite where nothing is
    known."""
    scale, residual, norm, bias = columns
    inverse, of_residual, of_norm = factors
    for block in range(len(scale)):
        first, end = block * BLOCK, min((block + 1) * BLOCK, len(upper))
        one, held, left, may = scale[block], norm[first:end], residual[first:end], able[first:end]
        products, added, bound = integers[first:end], bias[first:end], upper[first:end]
        for row in range(end - first):  # compiled to what does many at once
            beside = of_norm * held[row] + of_residual * left[row] + inverse * added[row]
            value = one * np.float32(products[row]) + beside
            value = value if value == value else np.float32(np.inf)  # else it is NaN
            bound[row] = max(value, np.float32(-LARGEST)) if may[row] else np.float32(-np.inf)


@exact
def _largest(upper: Floats, groups: int) -> Floats:
    """Of each group's bounds."""
    largest = np.full(groups, -np.inf, np.float32)
    for start in range(0, len(upper), groups):
        some = upper[start : start + groups]
        for group in range(len(some)):
            largest[group] = max(largest[group], some[group])
    return largest


@exact
def _reaching(upper: Floats, largest: Floats, floor: np.float32, near: Numbers, count: int) -> int:
    """Put the rows whose bound is not surely below the floor behind the `count` first of `near`; how many are there."""
    for group in range(len(largest)):
        if not largest[group] < floor:
            for row in range(group, len(upper), len(largest)):
                if not upper[row] < floor and upper[row] > -np.inf:
                    near[count] = row
                    count += 1
    return count


@exact
def _kth(scores: Floats, k: int) -> np.float32:
    """The k-th largest; -inf where fewer are numbers."""
    if len(scores) < k:
        return np.float32(-np.inf)
    for score in scores:
        if np.isnan(score):
            return np.float32(-np.inf)
    return np.partition(scores, len(scores) - k)[len(scores) - k]  # type: ignore[no-any-return]


@exact
def _sorted(near: Numbers, exactly: Floats, rows: Numbers, scores: Floats) -> int:
    """The best of the rows `near` and their scores; what has no score (NaN) or -inf is none of them."""
    order = np.argsort(near)
    negative = np.empty(len(near), np.float32)
    for at in range(len(near)):
        score = exactly[order[at]]
        negative[at] = -score if score > -np.inf else np.inf
    best = np.argsort(negative, kind="mergesort")  # equal ones stay in the order of their rows
    count = 0
    while count < min(len(best), len(rows)) and negative[best[count]] < np.inf:
        rows[count], scores[count] = near[order[best[count]]], np.float32(0.0) - negative[best[count]]
        count += 1
    return count
