"""Is one model better than another, or was it luck? Paired bootstrap over users, and Holm's correction for a table.

A user's targets are not independent of each other, so whole users are drawn (clusters), with replacement, as many as
there are. What is compared is the mean over targets of the difference, so a drawn user counts with all targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS: Final = 10_000
SEED: Final = 20_241_121
LEVEL: Final = 0.95  # of the confidence interval
CELLS: Final = 4_000_000  # of the matrix of drawn users that is held at a time


@dataclass(frozen=True)
class Comparison:
    """Of two models on the same targets: first minus second."""

    difference: float
    low: float  # the interval's ends: percentiles of the draws
    high: float
    p: float  # two-sided: how often draws, moved to a mean difference of 0, lie as far out as the difference found


def compare(
    first: Mapping[str, Floats], second: Floats, users: Sequence[Any], draws: int = DRAWS
) -> dict[str, Comparison]:
    """Each of `first` (T,) with `second` (T,); `users` (T,): whose target each is.

    All comparisons share their draws. Swapping two models changes the sign of the difference and nothing else. The
    order of the targets does not matter.
    """
    names = list(first)
    if not names or not len(second):
        return {name: Comparison(0.0, 0.0, 0.0, 1.0) for name in names}
    _, of_user = np.unique(np.asarray(users), return_inverse=True)
    count = int(of_user.max()) + 1
    targets = np.bincount(of_user, minlength=count).astype(np.float64)  # (U,)
    sums = np.stack([np.bincount(of_user, first[name] - second, count) for name in names], 1)  # (U, M)
    found = sums.sum(0) / targets.sum()  # (M,)
    drawn = _drawn(sums, targets, draws)  # (draws, M)
    # Rounding differs from draw to draw: what is equal but for it counts as being as far out.
    slack = 1e-12 + 1e-9 * np.abs(found)
    beyond = (np.abs(drawn - found) >= np.abs(found) - slack).sum(0)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {
        name: Comparison(float(found[m]), float(low[m]), float(high[m]), float((1 + beyond[m]) / (1 + draws)))
        for m, name in enumerate(names)
    }


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for being many (Holm, 1979): the chance of any false finding stays below the level."""
    corrected: dict[str, float] = {}
    reached = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        reached = max(reached, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = reached
    return {name: corrected[name] for name in p}


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation over seeds (n - 1 in the denominator); None where there is one value only."""
    mean = float(np.mean(values))
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def _drawn(sums: Any, targets: Floats, draws: int) -> Floats:
    """The mean over targets in each draw of users: sums (U, M), targets (U,) -> (draws, M)."""
    rng = np.random.default_rng(SEED)
    users = len(targets)
    out = []
    for start in range(0, draws, step := max(1, CELLS // users)):
        rows = min(step, draws - start)
        chosen = rng.integers(users, size=(rows, users)) + np.arange(rows)[:, None] * users
        times = np.bincount(chosen.ravel(), minlength=rows * users).reshape(rows, users)  # (rows, U)
        out.append((times @ sums) / (times @ targets)[:, None])
    return np.concatenate(out)
