"""Softmax over parts of a tensor, and cross-entropy over the whole catalogue, or an estimate where that is too large.

Beyond FULL_SOFTMAX_ITEMS the sum over all items is estimated from negatives: the other targets of the batch and
uniform ones. Each negative j weighs 1 / E[how often j is drawn] (logQ correction, Bengio and Senecal, 2008; Yi et
al., RecSys 2019), so the estimate of the sum has no bias. The target is always in the sum and was not drawn, so it is
not corrected, and where it was drawn as a negative that draw does not count.

Shapes: Q questions, N items, D width, K negatives.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared.models.fused_softmax import fits, fused_loss

FULL_SOFTMAX_ITEMS: Final = 100_000
IN_BATCH: Final = 2048  # at most so many of the batch's targets are negatives, drawn at random
UNIFORM: Final = 4096

Encode = Callable[[Tensor], tuple[Tensor, Tensor | None]]  # rows (K,) -> vectors (K, D), bias (K,)


def softmax_loss(
    users: Tensor,  # (Q, D)
    table: Tensor,  # (N, D)
    bias: Tensor | None,  # (N,)
    targets: Tensor,  # (Q,) int64
    *,
    share: Tensor | None = None,  # (N,) `target_share`: without it, negatives are uniform alone
    rows: Tensor | None = None,  # (Q,) questions of one row are not each other's negatives
    weights: Tensor | None = None,  # (Q,) what a question counts; the loss is the weighted mean
) -> Tensor:
    """Mean of -log softmax(users @ table.T + bias)[targets], over no questions 0."""
    if len(table) > FULL_SOFTMAX_ITEMS:
        encode: Encode = lambda at: (table[at], None if bias is None else bias[at])  # noqa: E731
        return sampled_loss(users, encode, len(table), targets, share=share, rows=rows, weights=weights)
    if fits(users, table):
        return _mean(F.cross_entropy(F.linear(users, table, bias), targets, reduction="none"), weights)
    return fused_loss(users, table, bias, torch.arange(len(targets), device=users.device), targets, weights=weights)


def sampled_loss(
    users: Tensor,
    encode: Encode,
    items: int,
    targets: Tensor,
    *,
    share: Tensor | None = None,
    rows: Tensor | None = None,
    weights: Tensor | None = None,
    in_batch: int = IN_BATCH,
    uniform: int = UNIFORM,
) -> Tensor:
    """The same, estimated; `encode` is asked for the targets and the negatives alone."""
    q, device = len(targets), targets.device
    rows = torch.arange(q, device=device) if rows is None else rows
    drawn = torch.randperm(q, device=device)[:in_batch] if share is not None else rows[:0]  # (k,)
    negatives = torch.cat([targets[drawn], torch.randint(items, (uniform,), device=device)])  # (K,)
    own = torch.cat([rows[drawn], rows.new_full((uniform,), -1)]) == rows[:, None]  # (Q, K)
    expected = torch.full((q, len(negatives)), uniform / items, device=device)  # E[draws of j for this question]
    if share is not None:
        expected += (len(drawn) - own.sum(1))[:, None] * share[negatives]
    masked = own | (negatives == targets[:, None])

    vectors, bias = encode(torch.cat([targets, negatives]))  # (Q + K, D)
    positive = (users * vectors[:q]).sum(1, keepdim=True).float()  # (Q, 1)
    negative = (users @ vectors[q:].T).float()  # (Q, K)
    if bias is not None:
        positive, negative = positive + bias[:q, None], negative + bias[q:]
    negative = (negative - expected.log()).masked_fill(masked, -torch.inf)
    return _mean(torch.logsumexp(torch.cat([positive, negative], 1), 1) - positive[:, 0], weights)


def target_share(asked_for: NDArray[np.int64], items: int) -> Tensor:
    """(N,) float32: which share of all questions ask for each item."""
    counts = np.bincount(asked_for, minlength=items)
    return torch.from_numpy((counts / max(1, counts.sum())).astype(np.float32))


def segment_softmax(logits: Tensor, segment: Tensor, segments: int) -> Tensor:
    """Softmax (M,) of logits (M,) over the rows of each segment (M,) in [0, segments)."""
    top = torch.full((segments,), -torch.inf, device=logits.device, dtype=logits.dtype)
    top = top.scatter_reduce(0, segment, logits.detach(), "amax")
    weight = torch.exp(logits - top[segment])
    total = torch.zeros(segments, device=logits.device, dtype=logits.dtype).index_add(0, segment, weight)
    return weight / total[segment]


def _mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return losses.sum() / max(1, len(losses))
    return (losses * weights).sum() / weights.sum().clamp(min=1e-9)
