"""SR-GNN: a history as a graph of items, read by a gated graph network (Wu et al., AAAI 2019).

Nodes are the distinct items of a history; an edge goes from each item to the next. Every prefix has its own graph,
so each question is its own row here: nothing later than a question is in its graph.
  a = [A_out H W_out ; A_in H W_in],  H' = GRU(a, H)                                  (eq. 1 to 5)
  s = W3 [s_last ; sum over t of q . sigmoid(W1 s_last + W2 s_t + c) s_t]             (eq. 6, 7)
Not of the paper: vectors are scaled on their way in, and s is normed, as in SASRec (see gru4rec.py).
Shapes: Q questions, L history (a position stands for its item's node at the item's first place), d width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.models import sequence_model
from shared.models.fitting import Fitted, Run
from shared.models.sequence_model import SequenceModel, prefixes
from shared.models.split import Split


@dataclass(frozen=True)
class Config(sequence_model.Config):
    layers: int = 1  # steps of the graph network


class SRGNN(SequenceModel):
    def __init__(self, items: int, config: Config) -> None:
        super().__init__(nn.Identity(), items, config)
        d = config.d
        self.steps = config.layers
        self.out_, self.in_ = nn.Linear(d, d), nn.Linear(d, d)
        self.gate = nn.GRUCell(2 * d, d)
        self.w1, self.w2 = nn.Linear(d, d, bias=False), nn.Linear(d, d)
        self.q = nn.Linear(d, 1, bias=False)
        self.w3 = nn.Linear(2 * d, d, bias=False)
        self.norm = nn.LayerNorm(d)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, history: Tensor, real: Tensor, at: Tensor) -> Tensor:  # (B, L), (B, L), (Q, 2) -> (Q, d)
        found, which = prefixes(history, real, at)
        states = self.last(found.history, found.real)
        return states[which]

    def last(self, history: Tensor, real: Tensor) -> Tensor:  # (Q, L), (Q, L) -> (Q, d)
        q, length = history.shape
        node = nodes(history, real)  # (Q, L)
        outward, inward = edges(node, real)
        h = self.drop(self.config.d**0.5 * self.items(history))  # (Q, L, d)
        for _ in range(self.steps):
            a = torch.cat([outward @ self.out_(h), inward @ self.in_(h)], -1)  # (Q, L, 2d)
            h = self.gate(a.flatten(0, 1), h.flatten(0, 1)).view(q, length, -1)
        h = h.gather(1, node[:, :, None].expand_as(h))  # each position reads its node
        last = h[torch.arange(q, device=h.device), (real.sum(1) - 1).clamp(min=0)]  # (Q, d)
        weight = self.q(torch.sigmoid(self.w1(last)[:, None] + self.w2(h))) * real[:, :, None]  # (Q, L, 1)
        return self.norm(self.w3(self.drop(torch.cat([last, (weight * h).sum(1)], -1))))  # type: ignore[no-any-return]


def nodes(history: Tensor, real: Tensor) -> Tensor:
    """(Q, L) -> (Q, L): where each position's item is first met; padding is its own node."""
    alike = (history[:, :, None] == history[:, None]) & (real[:, :, None] & real[:, None])  # (Q, L, L)
    own = torch.eye(history.shape[1], dtype=torch.bool, device=history.device)
    return (alike | own).int().argmax(-1)


def edges(node: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Outgoing and incoming adjacency (Q, L, L) between nodes, rows normalised by degree; an edge counts once."""
    q, length = node.shape
    adjacent = torch.zeros(q, length, length, device=node.device)
    if length > 1:
        row = torch.arange(q, device=node.device)[:, None].expand(-1, length - 1)
        adjacent[row, node[:, :-1], node[:, 1:]] = real[:, 1:].float()  # padding follows padding: 0 over 0
    outward, inward = adjacent, adjacent.transpose(1, 2)
    return outward / outward.sum(-1, keepdim=True).clamp(min=1), inward / inward.sum(-1, keepdim=True).clamp(min=1)


def network(config: Config, items: int) -> SequenceModel:
    return SRGNN(items, config)


def fit(split: Split, config: Config, run: Run) -> Fitted:
    return sequence_model.fit("srgnn", network, split, config, run)
