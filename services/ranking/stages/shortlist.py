"""Shortlist: the k best of a table so small that scoring all of it costs less than bounds that spare it.

All is scored in float32 first, which is wrong by a known distance at most. k rows reach a floor by those scores. Their
true scores are not lower than the floor by more than the distance; a row that is below the floor by more than two such
distances is truly below all k. The rest, little more than k, is scored exactly and sorted.

The rows are dealt to many groups. The floor is the k-th largest of the groups' largest scores, and only groups that
reach it are looked through, so finding costs little beside one pass over the scores.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.ranking.job import Pick
from services.ranking.stages.allowed import Allowed
from services.ranking.stages.score import OnCpu
from services.ranking.stages.sums import Doubles, Floats, Numbers, of_pair
from shared.native import exact
from shared.packed import products

NUMBERS: Final = 3 << 20  # of a table whose bounds cost more than its scores: 12 MiB, which caches hold
SCORES: Final = 1 << 21  # of all requests: 8 MiB
GROUPS: Final = 256  # at least, and FOR_EACH for each of the k
FOR_EACH: Final = 4
ROUNDING: Final = 2.0**-23  # of float32, twice what one operation can be wrong by
SPARE_STEPS: Final = 8  # the bias, and rounding the sum
OVERFLOW: Final = 2.0**126  # no sum of smaller ones does
UNDERFLOW: Final = 2.0**-126  # what is smaller may be taken for zero

Bools = NDArray[np.bool_]


def fits(scores: OnCpu, allowed: Allowed) -> bool:
    return scores.vectors.numel() <= NUMBERS and 0 < len(allowed) * allowed.rows <= SCORES


def shortlist(scores: OnCpu, allowed: Allowed, k: int) -> list[list[Pick]]:
    """Of all rows, each request's k best that it is allowed; fewer where fewer are."""
    if (len(scores.users), len(scores.vectors)) != (len(allowed), allowed.rows):
        raise ValueError("the scores and what is allowed are of other requests or other rows")  # no loop would notice
    about = products(scores.users, scores.vectors)  # (B, N), without the bias
    largest_bias = float(scores.bias.abs().amax())
    shape = (len(allowed), min(k, allowed.rows))
    counts, rows, found = np.empty(len(allowed), np.int64), np.empty(shape, np.int64), np.empty(shape, np.float32)
    _find(
        about.numpy(), scores.doubles, scores.vectors.numpy(), scores.bias.numpy(), scores.longest, largest_bias,
        *allowed.masks(), *allowed.banned, counts, rows, found,
    )  # fmt: skip
    columns = zip(counts.tolist(), rows.tolist(), found.tolist(), strict=True)
    return [list(map(Pick, some[:count], their[:count])) for count, some, their in columns]


@exact
def _find(
    about: Floats, users: Doubles, vectors: Floats, bias: Floats, longest: float, largest_bias: float,
    masks: Bools, mask_of: Numbers, banned: Numbers, ends: Numbers, counts: Numbers, rows: Numbers, scores: Floats,
) -> None:  # fmt: skip
    """Fill in how many were found of each request, which rows (B, k), and their scores; k is at least 1."""
    able, scratch = np.empty(len(bias), np.bool_), np.empty(len(bias), np.int64)
    start = 0
    for request in range(len(users)):
        mask = masks[mask_of[request]]
        for row in range(len(able)):  # takes a fiftieth of a slice's assignment
            able[row] = mask[row]
        for at in range(start, ends[request]):
            if 0 <= banned[at] < len(able):
                able[banned[at]] = False
        start = ends[request]
        wrong = _wrong_by(users[request], longest, largest_bias)
        if wrong < np.inf:
            near = _near(about[request], bias, able, rows.shape[1], wrong, scratch)
        else:
            near = np.nonzero(able)[0]
        counts[request] = _sorted(users, request, vectors, bias, near, rows[request], scores[request])


@exact
def _wrong_by(user: Doubles, longest: float, largest_bias: float) -> float:
    """A sum of D products is wrong by D units in the last place of |u| |v|, in whatever order it is made. Infinite
    where float32 may overflow, or the user is none."""
    largest = longest * np.sqrt((user * user).sum()) + largest_bias
    return (len(user) + SPARE_STEPS) * (ROUNDING * largest + UNDERFLOW) if largest < OVERFLOW else np.inf


@exact
def _near(about: Floats, bias: Floats, able: Bools, k: int, wrong: float, scratch: Numbers) -> Numbers:
    """The rows that may be among the k best, ascending."""
    groups = min(len(able), max(GROUPS, FOR_EACH * k))
    largest = _largest(about, bias, able, groups)
    floor = np.partition(largest, groups - k)[groups - k] - 2.0 * wrong
    count = 0
    for group in range(groups):
        if largest[group] >= floor:
            for row in range(group, len(able), groups):
                if able[row] and about[row] + bias[row] >= floor:
                    scratch[count] = row
                    count += 1
    return np.sort(scratch[:count])


@exact
def _largest(about: Floats, bias: Floats, able: Bools, groups: int) -> Floats:
    """Of each group; -inf where it has no row that may be given."""
    largest = np.full(groups, -np.inf, np.float32)
    for start in range(0, len(able), groups):
        end = min(start + groups, len(able))
        some, their_bias, may = about[start:end], bias[start:end], able[start:end]
        for group in range(end - start):  # compiled to what compares many at once
            score = some[group] + their_bias[group]
            if may[group] and score > largest[group]:
                largest[group] = score
    return largest


@exact
def _sorted(
    users: Doubles, request: int, vectors: Floats, bias: Floats, near: Numbers, rows: Numbers, scores: Floats
) -> int:
    """The best of the rows `near`, ascending, and their scores; what has no score (NaN) or -inf is none of them."""
    negative = np.empty(len(near), np.float32)
    for at in range(len(near)):
        score = of_pair(users, request, vectors, bias, near[at])
        negative[at] = -score if score > -np.inf else np.inf
    order = np.argsort(negative, kind="mergesort")  # equal ones stay in the order of their rows
    count = 0
    while count < min(len(order), len(rows)) and negative[order[count]] < np.inf:
        rows[count], scores[count] = near[order[count]], np.float32(0.0) - negative[order[count]]
        count += 1
    return count
