"""States to tensors, the same for the trainer and for serving.

Reviews become edges: one row a (node, attribute, opinion vector, polarity) that the convolutions gather from and
scatter to, so a batch costs what it holds and never a padded list.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared.events import Pair
from shared.graph.fold import distinct_users
from shared.graph.state import (
    BUCKET_HASHES,
    POPULARITY_BUCKET_SECONDS,
    ItemNode,
    ReviewSlot,
    UserState,
)
from shared.space import SCALE

RECENCY_ORIGIN: Final = 1_577_836_800.0  # 2020-01-01: any fixed time; it moves all items alike
DAY: Final = 86_400.0


@dataclass(frozen=True)
class Schema:
    """What a space fixes of the tensors: E numbers of a text's embedding, c of an opinion's, A attributes."""

    embedding_dim: int
    opinion_dim: int
    attributes: tuple[str, ...]  # the last is for what fits no named one


@dataclass(frozen=True)
class Edges:
    """M opinions. `item` is the row of the reviewed item in the table, -1 where it has none."""

    node: Tensor  # (M,) int64: row of the batch
    attribute: Tensor  # (M,) int64 in [0, A)
    opinion: Tensor  # (M, c) float32
    polarity: Tensor  # (M,) int64: 0 negative, 1 neutral, 2 positive
    item: Tensor  # (M,) int64

    def take(self, at: Tensor, node: Tensor) -> "Edges":
        """The opinions at these places (K,), now of these nodes (K,)."""
        return Edges(node, self.attribute[at], self.opinion[at], self.polarity[at], self.item[at])


@dataclass(frozen=True)
class ItemFeatures:
    content: Tensor  # (N, E) float32 of unit length, or zero where nothing is known
    users: Tensor  # (N,) float32: distinct users, about
    recency: Tensor  # (N,) float32, see `recency`
    edges: Edges

    def take(self, rows: Tensor) -> "ItemFeatures":
        """Features of some rows (K,), which may occur twice. Edges are in order of their node."""
        first = offsets(torch.bincount(self.edges.node, minlength=len(self.content)))
        edges = self.edges.take(*spans(first, rows))
        return ItemFeatures(self.content[rows], self.users[rows], self.recency[rows], edges)


@dataclass(frozen=True)
class UserFeatures:
    """Histories oldest first from column 0; columns beyond a user's own are padding."""

    history: Tensor  # (B, L) int64: rows of the table, 0 in padding
    real: Tensor  # (B, L) bool
    edges: Edges


def item_features(items: Sequence[ItemNode], schema: Schema, half_life_days: float, device: str) -> ItemFeatures:
    """Every row depends on its own item alone."""
    reviews = [item.reviews for item in items]
    return ItemFeatures(
        contents(items, schema.embedding_dim).to(device),
        torch.tensor([distinct_users(item.popularity_total) for item in items], dtype=torch.float32, device=device),
        torch.tensor([recency(item, half_life_days) for item in items], dtype=torch.float32, device=device),
        _edges(reviews, None, schema, device),
    )


def user_features(
    users: Sequence[UserState], row_of: Mapping[str, int], schema: Schema, longest: int, device: str
) -> UserFeatures:
    """The newest `longest` interactions with items of the table, and every opinion of the users' reviews."""
    history, real = padded([history_rows(user, row_of, longest) for user in users], device)
    return UserFeatures(history, real, _edges([user.reviews for user in users], row_of, schema, device))


def padded(rows: Sequence[Sequence[int]], device: str) -> tuple[Tensor, Tensor]:
    """See padded_rows, and which columns are real (B, L) bool."""
    held = padded_rows(rows)
    real = np.arange(held.shape[1]) < np.fromiter(map(len, rows), np.int64, len(rows))[:, None]
    return torch.from_numpy(held).to(device), torch.from_numpy(real).to(device)


def padded_rows(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """(B, L) from column 0, and 0 behind them; L is at least 1."""
    held = np.zeros((len(rows), max(1, max(map(len, rows), default=0))), np.int64)
    for at, of in enumerate(rows):
        held[at, : len(of)] = of
    return held


def offsets(counts: Tensor) -> Tensor:
    """(C,) -> (C + 1,): where the parts of each begin."""
    return F.pad(counts.cumsum(0), (1, 0))


def spans(first: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The places [first[r], first[r + 1]) of some rows (K,), one after the other, and which of the K each is of."""
    counts = first[rows + 1] - first[rows]
    of = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
    within = torch.arange(len(of), device=rows.device) - offsets(counts)[:-1][of]
    return first[rows][of] + within, of


def recency(item: ItemNode, half_life_days: float) -> float:
    """log of the mean of 2^(t / half-life) over the item's users, t from a fixed origin.

    log(n) + recency = log of the popularity with exponential decay, up to a number that is the same for all items:
    so a row needs no clock. An item that nobody has met counts as one met when it was last heard of.
    """
    rate = math.log(2) / (half_life_days * DAY)
    if not item.popularity:
        return rate * (item.last_seen - RECENCY_ORIGIN) if item.last_seen else -rate * RECENCY_ORIGIN
    counts = [distinct_users(hashes, BUCKET_HASHES) for hashes in item.popularity.values()]
    times = [rate * ((bucket + 0.5) * POPULARITY_BUCKET_SECONDS - RECENCY_ORIGIN) for bucket in item.popularity]
    top = max(times)
    mean = sum(n * math.exp(t - top) for n, t in zip(counts, times, strict=True)) / sum(counts)
    return top + math.log(mean)


def contents(items: Sequence[ItemNode], dim: int) -> Tensor:
    """(N, E) float32: the items' text embeddings, of unit length, or zero where nothing is known."""
    found = [content_of(item, dim) for item in items]
    return torch.from_numpy(np.stack(found) if found else np.zeros((0, dim), np.float32))


def content_of(item: ItemNode, dim: int) -> NDArray[np.float32]:
    """The embedding of the item's own text; without one, the mean of its reviews' embeddings."""
    if item.semantics is not None and len(item.semantics.vector) == dim:
        vectors = [item.semantics.vector]
    else:
        vectors = [slot.vector for slot in item.reviews if len(slot.vector) == dim]
    if not vectors:
        return np.zeros(dim, np.float32)
    mean: NDArray[np.float32] = np.frombuffer(b"".join(vectors), np.int8).reshape(-1, dim).mean(0, dtype=np.float32)
    norm = float(np.linalg.norm(mean))
    if norm > 0:
        mean /= norm
    return mean


def history_rows(user: UserState, row_of: Mapping[str, int], longest: int) -> list[int]:
    """Rows of the newest `longest` interactions with items of the table, oldest first."""
    rows = [row for row in map(row_of.get, [slot.item_id for slot in user.interactions]) if row is not None]
    return rows[:longest][::-1]


def opinions_of(
    reviews: Iterable[Sequence[ReviewSlot]], row_of: Mapping[str, int] | None, schema: Schema
) -> tuple[NDArray[np.int64], NDArray[np.float32], list[Pair]]:
    """(4, M): node, attribute, polarity and item of each opinion; the opinions (M, c); what they are of. See Edges."""
    index = {name: at for at, name in enumerate(schema.attributes)}
    other = len(schema.attributes) - 1
    numbers: list[int] = []
    pairs: list[Pair] = []
    for node, slots in enumerate(reviews):
        for slot in slots:
            item = -1 if row_of is None else row_of.get(slot.other_id, -1)
            for pair in slot.pairs:
                if len(pair.vector) == schema.opinion_dim:  # else it is of another space
                    numbers += node, index.get(pair.attribute, other), pair.polarity + 1, item
                    pairs.append(pair)
    vectors = b"".join([pair.vector for pair in pairs])
    opinion = np.frombuffer(vectors, np.int8).reshape(-1, schema.opinion_dim).astype(np.float32) / SCALE
    return np.ascontiguousarray(np.array(numbers, np.int64).reshape(-1, 4).T), opinion, pairs


def _edges(
    reviews: Iterable[Sequence[ReviewSlot]], row_of: Mapping[str, int] | None, schema: Schema, device: str
) -> Edges:
    numbers, opinion, _ = opinions_of(reviews, row_of, schema)
    node, attribute, polarity, item = torch.from_numpy(numbers).to(device)
    return Edges(node, attribute, torch.from_numpy(opinion).to(device), polarity, item)
