"""The user side of finestream's network for serving: the same numbers with fewer operations.

A ranking of a few users is hundreds of small operations, and starting them takes longer than what they compute. What
is fixed once a model has been trained is joined here: both views go through one product each, the three maps of
opinions through one, and the last layer is computed at the newest place alone. `Network.users` stays the reference.
Shapes as in finestream_network.py; X = 2, the co and the se view.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.models.features import Edges, UserFeatures
from shared.models.finestream_network import Block, FineView, Network, reviewed


class UserSide:
    """Of a network that no longer learns, with one layer and cross attention; see `fits`."""

    def __init__(self, network: Network) -> None:
        sequences, config = network.sequences, network.config
        to_co, to_se = sequences.to_co, sequences.to_se
        self._d, self._heads = config.d, config.heads
        self._position = sequences.position.detach()
        # x of a view gives the keys and values that the other view asks for, and its own questions of the other.
        self._in = torch.stack([_joined(to_co.k, to_co.v, to_se.q), _joined(to_se.k, to_se.v, to_co.q)])  # (X, d, 3d)
        self._in_shift = torch.stack([_shifts(to_co.k, to_co.v, to_se.q), _shifts(to_se.k, to_se.v, to_co.q)])[:, None]
        self._out = torch.stack([_joined(to_co.out), _joined(to_se.out)])  # (X, d, d)
        self._out_shift = torch.stack([_shifts(to_co.out), _shifts(to_se.out)])[:, None]
        self._block = cast(Block, sequences.blocks[-1])
        attention = self._block.attention
        self._kv, self._kv_shift = _joined(attention.k, attention.v).T.contiguous(), _shifts(attention.k, attention.v)
        self._norm = sequences.norm
        opinions = network.user_opinions
        self._attribute, self._polarity = opinions.attribute.weight.detach(), opinions.polarity.weight.detach()
        self._maps, self._shifts = opinions.maps.detach(), opinions.shifts.detach()
        self._told = config.opinions
        self._head, self._fusion = network.user_head, network.fusion
        self._gains = (network.gains * network.used).detach().repeat_interleave(config.d)  # (3d,)

    @staticmethod
    def fits(network: Network) -> bool:
        return network.config.layers == 1 and network.config.cross_attention

    def users(self, f: UserFeatures, met: Tensor, fine: Tensor) -> tuple[Tensor, FineView]:
        """As Network.users, from the vectors of the items met (B, L, 3d or more): -> (B, 3d)."""
        b = len(met)
        count = f.real.sum(1)  # (B,)
        x_hat = met[:, :, 2 * self._d : 3 * self._d]
        views = self._newest(met[:, :, : 2 * self._d], count)  # (2B, d)
        u, view = self._fine_user(f, count, x_hat, fine)
        known = count > 0
        known[f.edges.node] = True
        return torch.cat([views[:b], views[b:], u], 1) * self._gains * known[:, None], view

    def _newest(self, met: Tensor, count: Tensor) -> Tensor:
        """(B, L, 2d), (B,) -> (2B, d): both views at the newest place."""
        b, length, _ = met.shape
        place = torch.arange(length, device=met.device)
        ago = (count[:, None] - 1 - place).clamp_(min=0)
        placed = met.view(b * length, 2, self._d) + self._position[ago].view(b * length, 1, self._d)
        x = placed.transpose(0, 1)  # (X, B L, d)
        asked = torch.baddbmm(self._in_shift, x, self._in).view(2, b, length, 3, self._heads, -1)
        k, v, q = asked.permute(3, 0, 1, 4, 2, 5).flatten(1, 2).unbind()  # (2B, H, L, d/H)
        other = F.scaled_dot_product_attention(q.view(2, b, *q.shape[1:]).flip(0).flatten(0, 1), k, v, is_causal=True)
        other = other.transpose(1, 2).reshape(2, b * length, self._d)
        both = torch.baddbmm(self._out_shift, other, self._out).add_(x).view(2 * b, length, self._d)
        return self._at_newest(both, place, (count - 1).clamp_(min=0).repeat(2))

    def _at_newest(self, x: Tensor, place: Tensor, newest: Tensor) -> Tensor:
        """Block.at and the last norm: (2B, L, d), (L,), (2B,) -> (2B, d)."""
        rows, attention = torch.arange(len(x), device=x.device), self._block.attention
        h = self._block.norm1(x)
        kv = F.linear(h, self._kv, self._kv_shift).view(*h.shape[:2], 2, self._heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind()  # (2B, H, L, d/H)
        q = attention.q(h[rows, newest]).view(len(x), self._heads, 1, -1)
        seen = (place <= newest[:, None])[:, None, None]  # (2B, 1, 1, L)
        met = F.scaled_dot_product_attention(q, k, v, seen).view(len(x), -1)
        y = x[rows, newest] + attention.out(met)
        y = y + self._block.down(F.gelu(self._block.up(self._block.norm2(y))))
        return self._norm(y)  # type: ignore[no-any-return]

    def _fine_user(self, f: UserFeatures, count: Tensor, x_hat: Tensor, fine: Tensor) -> tuple[Tensor, FineView]:
        """-> (B, d)"""
        sums = F.embedding_bag(f.history, fine.flatten(1), per_sample_weights=f.real.to(fine.dtype), mode="sum")
        x = sums.float() / count.clamp(min=1)[:, None]  # (B, A c)
        at, weight, v = self._weighed(x, f.edges, fine)
        told = torch.zeros_like(x).view(-1, fine.shape[2]).index_add_(0, at, weight[:, None] * v).view_as(x)
        whole = x + told
        u: Tensor = self._head(whole)  # (B, d)
        share = (x_hat @ self._fusion(u)[:, :, None])[:, :, 0] / self._d**0.5  # (B, L)
        share = share.masked_fill(~f.real, -1e4).softmax(1) * (count > 0)[:, None]
        return torch.baddbmm(u[:, None], share[:, None], x_hat)[:, 0], FineView(at, weight, v, told, whole, share)

    def _weighed(self, x: Tensor, edges: Edges, fine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As OpinionConvolution. tanh bounds the logits, so the softmax needs no maximum."""
        a, c = fine.shape[1:]
        at = edges.node * a + edges.attribute  # (M,)
        own = x.view(-1, c)[at]
        met, opinion = reviewed(edges, fine), edges.opinion + self._polarity[edges.polarity]
        z = torch.stack([own, self._attribute[edges.attribute] + met, met + opinion])  # (3, M, c)
        y = z[:, :, None] @ self._maps[:, edges.attribute]  # (3, M, 1, c)
        q, k, v = torch.tanh(y[:, :, 0] + self._shifts[:, edges.attribute]).unbind()
        weight = torch.exp((q * k).sum(1) / c**0.5) * self._told  # (M,)
        total = weight.new_zeros(x.numel() // c).index_add_(0, at, weight)
        return at, weight / total.clamp_(min=torch.finfo(total.dtype).tiny)[at], v


def _joined(*maps: torch.nn.Linear) -> Tensor:
    """Of maps (d, d) one (d, W): x @ it has their results beside each other."""
    return torch.cat([one.weight.detach() for one in maps]).T.contiguous()


def _shifts(*maps: torch.nn.Linear) -> Tensor:
    nothing = torch.zeros_like
    return torch.cat([nothing(one.weight[:, 0]) if one.bias is None else one.bias.detach() for one in maps])
