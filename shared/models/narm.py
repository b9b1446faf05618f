"""NARM: a recurrent network whose last state also asks which earlier items mattered (Li et al., CIKM 2017).

  c_t = [h_t ; sum over j <= t of a_tj h_j],  a_tj = v . sigmoid(A1 h_t + A2 h_j)      (eq. 3 to 8)
  score(t, i) = e_i . B c_t                                                            (eq. 9)
The weights a are not normalised, as in the paper. All t are computed at once. Not of the paper: vectors are scaled
on their way in, and B c_t is normed, as in SASRec (see gru4rec.py).
Shapes: B users, L history, d width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.models import sequence_model
from shared.models.fitting import Fitted, Run
from shared.models.sequence_model import SequenceModel
from shared.models.split import Split


@dataclass(frozen=True)
class Config(sequence_model.Config):
    layers: int = 1


class NARM(nn.Module):
    """The encoder."""

    causal = True

    def __init__(self, d: int, layers: int = 1, dropout: float = 0.3) -> None:
        super().__init__()
        self.scale = d**0.5
        self.gru = nn.GRU(d, d, layers, batch_first=True)
        self.a1, self.a2 = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.v = nn.Linear(d, 1, bias=False)
        self.b = nn.Linear(2 * d, d, bias=False)
        self.norm = nn.LayerNorm(d)
        self.drop_in, self.drop_out = nn.Dropout(dropout / 2), nn.Dropout(dropout)  # the paper's .25 and .5

    def forward(self, x: Tensor, real: Tensor) -> Tensor:  # (B, L, d), (B, L) -> (B, L, d)
        h, _ = self.gru(self.drop_in(self.scale * x))
        alike = torch.sigmoid(self.a1(h)[:, :, None] + self.a2(h)[:, None])  # (B, L, L, d)
        weight = torch.tril(self.v(alike).squeeze(-1) * real[:, None])  # (B, L, L): row t weighs columns up to t
        return self.norm(self.b(self.drop_out(torch.cat([h, weight @ h], -1))))  # type: ignore[no-any-return]


def network(config: Config, items: int) -> SequenceModel:
    return SequenceModel(NARM(config.d, config.layers, config.dropout), items, config)


def fit(split: Split, config: Config, run: Run) -> Fitted:
    return sequence_model.fit("narm", network, split, config, run)
