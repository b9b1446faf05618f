"""SASRec: self-attention from each item to what came before it (Kang and McAuley, ICDM 2018).

Departs from the paper in that layers are normalised before the attention's keys too (pre-norm, as trains best
today; the authors' code normalises queries only), that item embeddings have a bias in the score, and that the loss
is the full softmax; `loss="bce"` and `bias=False` are the paper's (section III-E). Every attention is causal and
knows its padding.
Shapes: B users, L history, d width, Q questions.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.models import sequence_model
from shared.models.fitting import Fitted, Run
from shared.models.sequence_model import SequenceModel
from shared.models.split import Split


@dataclass(frozen=True)
class Config(sequence_model.Config):
    layers: int = 2
    heads: int = 1


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself, masked (section III-B)."""

    def __init__(self, d: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q = nn.Linear(d, d, bias=False)
        self.k = nn.Linear(d, d, bias=False)  # a key's bias would cancel in the softmax
        self.v = nn.Linear(d, d)
        self.out = nn.Linear(d, d)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # (B, L, d), (B, 1, L, L) -> (B, L, d)
        b, length, d = x.shape
        q, k, v = (f(x).view(b, length, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)  # (B, H, L, d/H)
        return self.out(y.transpose(1, 2).reshape(b, length, d))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then a point-wise network (section III-B), each with a residual path and its own norm before."""

    def __init__(self, d: int, heads: int, dropout: float, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = Attention(d, heads, dropout)
        self.up, self.down = nn.Linear(d, width), nn.Linear(width, d)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # (B, L, d) -> (B, L, d)
        x = x + self.drop(self.attention(self.norm1(x), mask))
        return x + self.drop(self.down(self.drop(F.relu(self.up(self.norm2(x))))))  # type: ignore[no-any-return]


class SASRec(nn.Module):
    """The encoder. Position 0 is the oldest item that is seen, so nothing at t depends on what comes later."""

    causal = True

    def __init__(self, d: int, layers: int = 2, heads: int = 1, dropout: float = 0.3, longest: int = 50) -> None:
        super().__init__()
        self.scale = d**0.5
        self.position = nn.Embedding(longest, d)
        nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(d, heads, dropout, width=d) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:  # (B, L, d), (B, L) -> (B, L, d)
        x = self.drop(self.scale * x + self.position.weight[: x.shape[1]])
        mask = causal_mask(real)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)  # type: ignore[no-any-return]


def causal_mask(real: Tensor) -> Tensor:
    """(B, L) -> (B, 1, L, L) bool: row t may look at real columns up to t, and always at itself.

    A row of padding has to look somewhere, or it would be NaN; nobody reads it.
    """
    length = real.shape[1]
    ones = torch.ones(length, length, dtype=torch.bool, device=real.device)
    return (torch.tril(ones) & real[:, None] | torch.eye(length, dtype=torch.bool, device=real.device))[:, None]


def network(config: Config, items: int) -> SequenceModel:
    encoder = SASRec(config.d, config.layers, config.heads, config.dropout, config.longest)
    return SequenceModel(encoder, items, config)


def fit(split: Split, config: Config, run: Run) -> Fitted:
    return sequence_model.fit("sasrec", network, split, config, run)
