"""The neighbour view: items that the same people met lie close, and items that nobody met yet lie where their text is.

  A = X D^-1/2                        who met what (U, N), each item's column by the root of its users
  A ~ P S V^T, f_i = S^p V_i          rank r; f_i . f_j = (A^T A)^p restricted to what r directions can tell
  f_i <- g f_i + (1 - g) R s_i        g = n / (n + kappa); R: ridge regression from the text s_i to f_i
  user  sum_k decay^k f_(k newest) / sqrt(length)

It is item-kNN with the cosine's noise filtered out (a linear graph filter: Shen et al., CIKM 2021), nothing of it is
learnt by gradients, and a user is still made of nothing but their history. Shapes: U users, N items, E text
embedding, r rank.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.models.sequences import Sequences

RIDGE: Final = 30.0  # in units of items with one user
POWER_STEPS: Final = 6
SPARE: Final = 16  # directions beyond the rank that make the iteration settle
EVENTS: Final = 5_000_000  # beyond, every second user counts, or every third, ...
SAMPLED: Final = 2000  # users whose scores fix the scale


@dataclass(frozen=True)
class Neighbours:
    """f of the items that the fit has met (rows 1..; row 0 is nobody), and the map from texts for the others."""

    factors: Tensor  # (ids + 1, r)
    mean: Tensor  # (E,) of the texts
    from_text: Tensor  # (E, r)
    kappa: float

    @property
    def rank(self) -> int:
        return int(self.factors.shape[1])

    def items(self, rows: Tensor, content: Tensor, users: Tensor) -> Tensor:
        """ID rows (N,), texts (N, E), distinct users (N,) -> (N, r); an item's place depends on itself alone."""
        known = (content != 0).any(1, keepdim=True)
        gate = torch.where(rows > 0, users / (users + self.kappa), 0.0)[:, None]
        told = ((content - self.mean) * known) @ self.from_text
        return gate * self.factors[rows] + (1 - gate) * told

    def users(self, factors: Tensor, real: Tensor, decay: float) -> Tensor:
        """f of histories (B, L, r), oldest first, and which columns are real (B, L) -> (B, r)."""
        return (weights(real, decay)[:, None] @ factors.float())[:, 0]

    def to(self, device: str) -> "Neighbours":
        return Neighbours(self.factors.to(device), self.mean.to(device), self.from_text.to(device), self.kappa)


def weights(kept: Tensor, decay: float) -> Tensor:
    """What the items of histories count, oldest first, of which only the kept (..., L) are there: (..., L)."""
    count = kept.cumsum(-1, dtype=torch.int32)
    length = count[..., -1:]
    return decay ** (length - count) * kept / length.clamp(min=1) ** 0.5


def nobody(rank: int, ids: int, embedding_dim: int) -> Neighbours:
    """The view before anything is known: every item is at zero."""
    return Neighbours(torch.zeros(ids + 1, rank), torch.zeros(embedding_dim), torch.zeros(embedding_dim, rank), 1.0)


def fit_neighbours(
    met: Sequences, content: Tensor, rank: int, sharpness: float, kappa: float, seed: int = 0
) -> Neighbours:
    """From histories and texts (N, E) of the items that row 1.. of the factors are for.

    `sharpness`: p, the higher, the fewer directions count.

    The factors are scaled so that a user's scores of the items that they have not met have a deviation of 1: a
    weight then means the same whatever the data.
    """
    n = len(content)
    pairs = _pairs(met, max(1, -(-len(met.items) // EVENTS)))
    counts = torch.from_numpy(np.bincount(pairs[1], minlength=n)).float()  # (N,)
    indices = torch.from_numpy(pairs)
    a = torch.sparse_coo_tensor(indices, counts[indices[1]] ** -0.5, (max(1, len(met)), n), check_invariants=True)
    a = a.coalesce()
    values, vectors = _principal(a, rank, seed)
    factors = torch.zeros(n, rank)
    factors[:, : len(values)] = vectors * values**sharpness
    factors /= _deviation(factors, a, seed) ** 0.5
    mean, from_text = _regression(content, factors, counts)
    return Neighbours(torch.cat([torch.zeros(1, rank), factors]), mean, from_text, kappa)


def _pairs(met: Sequences, kept_every: int) -> NDArray[np.int64]:
    """(2, P): who met what, once; of every `kept_every`-th user."""
    parts = [
        np.unique(np.stack([users, items])[:, users % kept_every == 0], axis=1) for users, items, _ in met.stretches()
    ]
    return np.concatenate(parts, 1) if parts else np.zeros((2, 0), np.int64)


def _principal(a: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """The largest singular values (k,) of a sparse matrix (U, N) and their right vectors (N, k), k <= rank.

    Subspace iteration (Halko, Martinsson and Tropp, 2011, algorithm 4.4): the matrix is only ever multiplied.
    """
    k = min(rank + SPARE, *a.shape)
    start = torch.randn(a.shape[1], k, generator=torch.Generator().manual_seed(seed))
    q = torch.linalg.qr(start).Q
    for _ in range(POWER_STEPS):
        q = torch.linalg.qr(a.t() @ (a @ q)).Q
    _, values, axes = torch.linalg.svd(a @ q, full_matrices=False)  # (U, k) = left values axes
    kept = min(rank, len(values))
    return values[:kept], (q @ axes.T)[:, :kept]


def _deviation(factors: Tensor, a: Tensor, seed: int) -> float:
    """Of the scores of a sample of users for what they have not met."""
    chosen = torch.randperm(a.shape[0], generator=torch.Generator().manual_seed(seed))[:SAMPLED]
    met = a.index_select(0, chosen).to_dense() > 0  # (S, N)
    users = (met.float() @ factors) / met.sum(1, keepdim=True).clamp(min=1) ** 0.5
    scores = (users @ factors.T)[~met]
    return max(float(scores.std()), 1e-6) if len(scores) > 1 else 1.0


def _regression(content: Tensor, factors: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The texts' mean (E,) and the map (E, r) from centred texts to factors; an item counts as often as it was met."""
    known = (content != 0).any(1)
    weight = (counts * known)[:, None]
    mean = content[known].mean(0) if bool(known.any()) else torch.zeros(content.shape[1])
    s = (content - mean) * known[:, None]
    gram = s.T @ (weight * s) + RIDGE * torch.eye(content.shape[1])
    return mean, torch.linalg.solve(gram, s.T @ (weight * factors))
