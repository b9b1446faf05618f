"""Vectors that are derived from states. They are no part of a state: written beside it, never compared.

semantic (E,): an item's own embedding, else the mean of its reviews' embeddings; a user's is the mean of the
items they met, each weighted by 2^(-age / half-life), where age is counted from the user's newest event, so that
it depends on the state alone. opinion (A * c,): the mean opinion vector of each of the A attributes, concatenated.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.graph_updater.store import Floats
from shared.graph.state import ItemNode, ReviewSlot, UserState
from shared.space import SCALE, Space, quantise

DAY_SECONDS: Final = 86_400.0
NONE: Final[Floats] = np.zeros(0, dtype=np.float32)


class ItemVectors:
    """Semantic vectors of items as int8 numbers, the newest known; of at most `max_items`, the first to come goes."""

    def __init__(self, space: Space, max_items: int) -> None:
        self._max_items = max_items
        self._row_of: dict[str, int] = {}
        self._matrix: NDArray[np.int8] = np.zeros((min(max_items, 1024), space.embedding_dim), dtype=np.int8)  # (n, E)
        self._free: list[int] = list(range(len(self._matrix)))

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._row_of

    def rows(self, item_ids: Iterable[str]) -> list[int | None]:
        """Where each item's vector lies, for `take`; None for what is not known."""
        return [self._row_of.get(item_id) for item_id in item_ids]

    def take(self, rows: Sequence[int]) -> Floats:
        """(n, E)"""
        return self._matrix[rows].astype(np.float32)

    def put(self, item_id: str, vector: Floats) -> None:
        """`vector` (E,), or (0,) for an item that has none, which is forgotten."""
        if len(vector):
            self.put_quantised(item_id, quantise(vector[None])[0])
        else:
            self._drop(item_id)

    def put_quantised(self, item_id: str, vector: bytes) -> None:
        """E int8 numbers."""
        row = self._row_of.get(item_id)
        if row is None:
            row = self._row_of[item_id] = self._free_row()
        self._matrix[row] = np.frombuffer(vector, dtype=np.int8)

    def _free_row(self) -> int:
        if not self._free and len(self._matrix) < self._max_items:
            held = len(self._matrix)
            grown = np.zeros((min(2 * held, self._max_items), self._matrix.shape[1]), dtype=np.int8)
            grown[:held] = self._matrix
            self._matrix = grown
            self._free.extend(range(held, len(grown)))
        return self._free.pop() if self._free else self._row_of.pop(next(iter(self._row_of)))

    def _drop(self, item_id: str) -> None:
        row = self._row_of.pop(item_id, None)
        if row is not None:
            self._free.append(row)


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
        rows = self._items.rows(_met(user))
        known = [row for row in rows if row is not None]
        if not known:
            return NONE
        times = np.array([ts for row, ts in zip(rows, _times(user), strict=True) if row is not None])
        weights: Floats = np.exp2((times - times.max()) / self._half_life).astype(np.float32)  # (n,)
        return _normal(weights @ self._items.take(known))

    def missing_items(self, user: UserState) -> set[str]:
        """The user's items whose vectors are not in memory."""
        return {item_id for item_id in _met(user) if item_id not in self._items}

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


def _met(user: UserState) -> list[str]:
    return [slot.item_id for slot in user.interactions] + [slot.other_id for slot in user.reviews]


def _times(user: UserState) -> list[float]:
    """Beside _met."""
    return [slot.ts for slot in user.interactions] + [slot.ts for slot in user.reviews]


def _matrix(rows: Sequence[bytes]) -> Floats:
    """n rows of d int8 numbers -> (n, d)"""
    return np.frombuffer(b"".join(rows), dtype=np.int8).reshape(len(rows), -1).astype(np.float32)


def _normal(vector: Floats) -> Floats:
    length = np.linalg.norm(vector)
    if length == 0:
        return NONE
    unit: Floats = vector / np.float32(length)
    return unit
