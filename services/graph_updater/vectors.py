"""Vectors that are derived from states. They are no part of a state: written beside it, never compared.

semantic (E,): an item's own embedding, else the mean of its reviews' embeddings; a user's is the mean of the
items they met, each weighted by 2^(-age / half-life), where age is counted from the user's newest event, so that
it depends on the state alone. opinion (A * c,): the mean opinion vector of each of the A attributes, concatenated.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from services.graph_updater.cache import Cache
from services.graph_updater.store import Floats
from shared.graph.state import ItemNode, ReviewSlot, UserState
from shared.space import SCALE, Space, quantise

DAY_SECONDS: Final = 86_400.0
ENTRY_BYTES: Final = 200  # of Python objects around a cached vector
NONE: Final[Floats] = np.zeros(0, dtype=np.float32)


class ItemVectors:
    """Semantic vectors of items as int8 numbers, the newest known; bounded."""

    def __init__(self, space: Space, max_items: int) -> None:
        self._cache: Cache[bytes] = Cache(max_items * (space.embedding_dim + ENTRY_BYTES))

    def get(self, item_id: str) -> bytes | None:
        return self._cache.get(item_id)

    def put(self, item_id: str, vector: Floats) -> None:
        """`vector` (E,), or (0,) for an item that has none, which is forgotten."""
        if len(vector):
            (data,) = quantise(vector[None])
            self._cache.put(item_id, data, len(data) + ENTRY_BYTES)
        else:
            self._cache.drop(item_id)


class Derived:
    """Computes the vectors of a space. A vector that there is no ground for has length 0."""

    def __init__(self, space: Space, items: ItemVectors, half_life_days: float) -> None:
        self._width = space.opinion_dim
        self._row_of = {name: row for row, name in enumerate(space.attribute_names)}
        self._items = items
        self._half_life = half_life_days * DAY_SECONDS

    def item_semantic(self, item: ItemNode) -> Floats:
        """(E,)"""
        if item.semantics is not None and item.semantics.vector:
            return _normal(np.frombuffer(item.semantics.vector, dtype=np.int8).astype(np.float32))
        held = [slot.vector for slot in item.reviews if slot.vector]
        return _normal(_matrix(held).sum(axis=0)) if held else NONE

    def user_semantic(self, user: UserState) -> Floats:
        """(E,), of the items whose vectors are in memory."""
        met = [(vector, ts) for item_id, ts in _met(user) if (vector := self._items.get(item_id)) is not None]
        if not met:
            return NONE
        times = np.array([ts for _, ts in met])
        weights: Floats = np.exp2((times - times.max()) / self._half_life).astype(np.float32)  # (n,)
        return _normal(weights @ _matrix([vector for vector, _ in met]))

    def missing_items(self, user: UserState) -> set[str]:
        """The user's items whose vectors are not in memory."""
        return {item_id for item_id, _ in _met(user) if self._items.get(item_id) is None}

    def opinion(self, reviews: Iterable[ReviewSlot]) -> Floats:
        """(A * c,)"""
        pairs = [(self._row_of[p.attribute], p.vector) for slot in reviews for p in slot.pairs if p.vector]
        if not pairs:
            return NONE
        rows = np.array([row for row, _ in pairs])
        sums = np.zeros((len(self._row_of), self._width), dtype=np.float32)
        np.add.at(sums, rows, _matrix([vector for _, vector in pairs]) / SCALE)
        counts = np.bincount(rows, minlength=len(self._row_of))
        mean: Floats = np.divide(sums, np.maximum(counts, 1)[:, None], dtype=np.float32).reshape(-1)
        return mean if mean.any() else NONE


def _met(user: UserState) -> Iterable[tuple[str, float]]:
    for slot in user.interactions:
        yield slot.item_id, slot.ts
    for review in user.reviews:
        yield review.other_id, review.ts


def _matrix(rows: Sequence[bytes]) -> Floats:
    """n rows of d int8 numbers -> (n, d)"""
    return np.frombuffer(b"".join(rows), dtype=np.int8).reshape(len(rows), -1).astype(np.float32)


def _normal(vector: Floats) -> Floats:
    length = np.linalg.norm(vector)
    if length == 0:
        return NONE
    unit: Floats = vector / np.float32(length)
    return unit
