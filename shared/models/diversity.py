"""Which k of a pool of candidates, and in which order: scores against likeness, and limits on groups.

`MMR` is maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998), `DPP` the greedy search for the likeliest
set of a determinantal point process (Chen, Zhang & Zhou, NeurIPS 2018, arXiv 1709.05135, Algorithm 1). Both take
relevance in [0, 1] (P,), vectors of length 1 (P, d) and a strength in [0, 1], where 0 is the order of relevance.
Of equals the earlier candidate is taken. Choosing k costs O(k P d), with DPP O(k P (d + k)).
"""

from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Method = Literal["mmr", "dpp"]
SPANNED: Final = 1e-6  # a variance below it: what is chosen spans the candidate already


class Greedy(Protocol):
    """What each candidate is worth (P,) after what was taken."""

    worth: Floats

    def take(self, at: int) -> None: ...


class MMR:
    """(1 - strength) relevance - strength (the largest cosine to what is chosen)."""

    def __init__(self, relevance: Floats, vectors: Floats, strength: float) -> None:
        self._relevant = (1.0 - strength) * relevance
        self._vectors = vectors
        self._strength = strength
        self._closest = np.full(len(relevance), -1.0)  # the least cosine there is
        self.worth = self._relevant

    def take(self, at: int) -> None:
        self._closest = np.maximum(self._closest, self._vectors @ self._vectors[at])
        self.worth = self._relevant - self._strength * self._closest


class DPP:
    """(1 - strength) relevance + strength log v, where v is what is left of a candidate's variance given those chosen.

    The kernel is S = (1 + cosine) / 2, which is positive semi-definite; the sum over what is chosen is then
    (1 - strength) sum of relevance + strength log det S. v comes from an incremental Cholesky factor of S, in logs, so
    that no strength overflows. Once all that is left is spanned, relevance alone decides.
    """

    def __init__(self, relevance: Floats, vectors: Floats, strength: float) -> None:
        self._relevant = (1.0 - strength) * relevance
        self._vectors = vectors
        self._strength = strength
        self._variance = np.ones(len(relevance))
        self._factor = np.zeros((0, len(relevance)))  # a row a chosen candidate
        self.worth = self._relevant

    def take(self, at: int) -> None:
        own = self._variance[at]
        if own > SPANNED:
            similar = (1.0 + self._vectors @ self._vectors[at]) / 2.0  # (P,)
            row = (similar - self._factor[:, at] @ self._factor) / np.sqrt(own)
            self._factor = np.vstack([self._factor, row])
            self._variance = self._variance - row**2
        self.worth = self._relevant + self._strength * np.log(np.maximum(self._variance, SPANNED))


class Limits:
    """At most `left` (C,) candidates of each group; `member` (P, C) says who is in which. `open` (P,): may be taken."""

    def __init__(self, member: Bools, left: Ints) -> None:
        self._member = member
        self._left = left.copy()
        self.open: Bools = np.logical_not(member[:, left <= 0].any(axis=1))

    def take(self, at: int) -> None:
        self.open[at] = False
        if not len(self._left):
            return
        self._left -= self._member[at]
        full = self._member[at] & (self._left <= 0)
        if full.any():
            self.open[self._member[:, full].any(axis=1)] = False


def no_limits(count: int) -> Limits:
    """Each of `count` candidates may be taken, once."""
    return Limits(np.zeros((count, 0), np.bool_), np.zeros(0, np.int64))


def choose(greedy: Greedy, k: int, limits: Limits) -> list[int]:
    """The k candidates, in the order taken; fewer where the limits leave fewer. The limits may know of candidates
    behind those that `greedy` knows; they are not chosen.
    """
    chosen: list[int] = []
    while len(chosen) < k and limits.open[: len(greedy.worth)].any():
        at = int(np.where(limits.open[: len(greedy.worth)], greedy.worth, -np.inf).argmax())
        limits.take(at)
        greedy.take(at)
        chosen.append(at)
    return chosen


def in_order(k: int, limits: Limits) -> list[int]:
    """As choose, where nothing but the candidates' own order counts."""
    taken: list[int] = []
    for at in np.flatnonzero(limits.open).tolist():
        if len(taken) == k:
            break
        if limits.open[at]:
            limits.take(at)
            taken.append(at)
    return taken


def greedy(method: Method, relevance: Floats, vectors: Floats, strength: float) -> Greedy:
    """What `choose` asks, by name."""
    return (MMR if method == "mmr" else DPP)(relevance, vectors, strength)


def relevance(scores: Floats) -> Floats:
    """Scores (P,) moved and scaled to [0, 1], as both methods weigh them; equal scores are all 0."""
    least, most = scores.min(initial=np.inf), scores.max(initial=-np.inf)
    return (scores - least) / (most - least) if most > least else np.zeros(len(scores))


def unit(vectors: Floats) -> Floats:
    """Vectors (P, d) of length 1; one without a direction stays 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def unlikeness(vectors: Floats) -> float:
    """Intra-list diversity (Smyth & McClave 2001): the mean of 1 - cosine over all pairs of a list; 0 below two."""
    count = len(vectors)
    if count < 2:
        return 0.0
    total = np.linalg.norm(vectors.sum(axis=0)) ** 2 - np.linalg.norm(vectors) ** 2  # twice the sum over pairs
    return float(1.0 - total / (count * (count - 1)))
