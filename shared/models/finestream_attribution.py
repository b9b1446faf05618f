"""What of a user moved finestream's scores, for less than an encoding: `attribution.left_out` is what it comes near to.

The neighbours and the weights by which the fine view takes items and opinions together are sums, so each edge can be
left out of them exactly. What follows the fine view's sum is taken as linear around the user (one product with its
slope), and what the sequence model makes of an item is not looked at: it is most of an encoding's cost and little of a
score. A test holds both against the reference on trained models. Shapes: B users, L history, M opinions, K items to
explain, r rank of the neighbours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from shared.events import Pair
from shared.graph.state import UserState
from shared.models.attribution import Moved, together
from shared.models.contract import ItemTable
from shared.models.features import UserFeatures, padded
from shared.models.finestream_network import Network, reviewed
from shared.models.neighbours import weights

if TYPE_CHECKING:
    from shared.models.finestream import Finestream


@dataclass(frozen=True)
class FineView:
    """What the fine view makes of B users on the way to its vector, of M opinions."""

    at: Tensor  # (M,) the opinion's place in B A
    weight: Tensor  # (M,) there
    v: Tensor  # (M, c)
    told: Tensor  # (B, A c)
    whole: Tensor  # (B, A c): told, and what is around the user
    share: Tensor  # (B, L) the weight of each item met


@torch.no_grad()
def moved(
    model: "Finestream",
    users: Sequence[UserState],
    f: UserFeatures,
    met: Tensor,
    table: ItemTable,
    rows: Sequence[Sequence[int]],
) -> Moved:
    """`f` and `met` (B, L, 3d + r) as `users` are encoded from them."""
    config, network = model.config, model.network
    vectors = table.vectors[:, 2 * config.d :]  # of the fine view and the neighbours: (N, d + r)
    picked, _ = padded(rows, model.device)  # (B, K)
    picked_fine, picked_near = _rows(vectors, picked).split([config.d, model.neighbours.rank], 2)
    met_fine, met_near = met[:, :, 2 * config.d :].split([config.d, model.neighbours.rank], 2)  # (B, L, d), (B, L, r)
    kept = f.real[:, None] & (f.history[:, None] != f.history[:, :, None])  # (B, L, L): the history without each item

    near = config.neighbours * config.neighbour_view * picked_near @ met_near.transpose(1, 2)  # (B, K, L)
    by_items = _fell(weights(f.real, config.decay), weights(kept, config.decay), near)
    counted = config.personal * network.gains[2] * network.used[2] * picked_fine
    fine = table.extra["fine"]
    view = _fine_view(network, f, met_fine, fine)
    by_fine, by_said = _of_fine(network, f, view, kept, counted, met_fine, fine)
    by_items += by_fine
    lone = (~kept[:, 0].any(1) & (torch.bincount(f.edges.node, minlength=len(users)) == 0)).nonzero()[:, 0]
    if len(lone):  # without their only edge they score as nobody does
        u = model.encode_users([users[at] for at in lone.tolist()], table, 0.0)
        by_items[lone] = u[:, None] @ _rows(table.vectors, picked[lone]).transpose(1, 2)  # (n, 1, K) for all of L
    by_items.masked_fill_(~f.real[:, :, None], -torch.inf)
    said = pairs_of(users, config.schema.opinion_dim)
    return Moved(f.history, by_items, said, together(by_said.split([len(of_user) for of_user in said])))


def _fine_view(network: Network, f: UserFeatures, x_hat: Tensor, fine: Tensor) -> FineView:
    x = network.around(f, fine)  # (B, A, c)
    at, weight, v = network.user_opinions.weighed(x, f.edges, reviewed(f.edges, fine))
    weight = weight * network.config.opinions
    told = network.user_opinions.summed(x, at, weight, v)
    whole = (x + told).flatten(1)
    return FineView(
        at, weight, v, told.flatten(1), whole, network.fused(network.user_head(whole), x_hat, f.real)
    )  # fmt: skip


def _of_fine(
    network: Network, f: UserFeatures, view: FineView, kept: Tensor, picked: Tensor, x_hat: Tensor, fine: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, L, K) of the items and (M, K) of the pairs; `picked` (B, K, d) with what the view counts in it."""
    slope = _slope(network, view.whole, picked)
    by_items = _fell(view.share, _normal(view.share[:, None] * kept), picked @ x_hat.transpose(1, 2))
    around = slope @ _rows(fine.flatten(1), f.history).transpose(1, 2)  # (B, K, L)
    by_items += _fell(_normal(f.real.float()), _normal(kept.float()), around)
    fell = _alone(view.told.view(-1, fine.shape[2])[view.at], view.weight[:, None], view.v)  # (M, c)
    fell = fell * network.config.opinions
    slopes = slope.view(*slope.shape[:2], *fine.shape[1:])[f.edges.node, :, f.edges.attribute]  # (M, K, c)
    return by_items, (slopes * fell[:, None]).sum(2)


def _alone(mean: Tensor, weight: Tensor, v: Tensor) -> Tensor:
    """How far a weighted mean (M, c) falls without one of what it is of; without the only one, to 0."""
    left = 1 - weight
    return torch.where(left > 1e-6, weight * (v - mean) / left, mean)


def _slope(network: Network, z: Tensor, picked: Tensor) -> Tensor:
    """By how much z (B, A c) moves the products of the head's outcome with picked (B, K, d): (B, K, A c).

    Written out, since what is loaded for inference has no gradients.
    """
    first, second = cast(nn.Linear, network.user_head[0]), cast(nn.Linear, network.user_head[2])
    h = first(z)  # (B, d)
    gelu = torch.special.ndtr(h) + h * torch.exp(-h.square() / 2) / (2 * math.pi) ** 0.5  # its slope
    return ((picked @ second.weight) * gelu[:, None]) @ first.weight  # type: ignore[no-any-return]


def _fell(whole: Tensor, without: Tensor, scores: Tensor) -> Tensor:
    """Sums of scores (B, K, L) by weights (B, L), less those by weights (B, L, L): (B, L, K)."""
    return (whole[:, None] - without) @ scores.transpose(1, 2)


def _normal(weight: Tensor) -> Tensor:
    """(..., L) that add up to 1, or to 0 where nothing is left."""
    return weight / weight.sum(-1, keepdim=True).clamp(min=1e-9)


def _rows(table: Tensor, rows: Tensor) -> Tensor:
    """(N, D), (B, L) -> (B, L, D) float32"""
    return table.index_select(0, rows.flatten()).view(*rows.shape, -1).float()


def pairs_of(users: Sequence[UserState], opinion_dim: int) -> list[list[Pair]]:
    """Of each user, the pairs that are the model's edges, in their order."""
    return [[pair for slot in user.reviews for pair in slot.pairs if len(pair.vector) == opinion_dim] for user in users]
