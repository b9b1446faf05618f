"""GRU4Rec: a recurrent network over the history (Hidasi et al., ICLR 2016; Hidasi and Karatzoglou, CIKM 2018).

The state at each item asks for the next one, against every item of the catalogue (full softmax in place of their
sampled losses), with the "constrained embedding" of the authors' code: the same vectors go in and score. Not of the
paper: vectors are scaled on their way in and states normed on their way out, as in SASRec, which is worth a quarter
of NDCG where data are few.
Shapes: B users, L history, d width.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from shared.models import sequence_model
from shared.models.fitting import Fitted, Run
from shared.models.sequence_model import SequenceModel
from shared.models.split import Split


@dataclass(frozen=True)
class Config(sequence_model.Config):
    layers: int = 1


class GRU4Rec(nn.Module):
    """The encoder. Padding comes last, so a recurrence never reads it before an item."""

    causal = True

    def __init__(self, d: int, layers: int = 1, dropout: float = 0.3) -> None:
        super().__init__()
        self.scale = d**0.5
        self.gru = nn.GRU(d, d, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.out = nn.Linear(d, d)
        self.norm = nn.LayerNorm(d)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:  # (B, L, d), (B, L) -> (B, L, d)
        y, _ = self.gru(self.drop(self.scale * x))
        return self.norm(self.out(self.drop(y)))  # type: ignore[no-any-return]


def network(config: Config, items: int) -> SequenceModel:
    return SequenceModel(GRU4Rec(config.d, config.layers, config.dropout), items, config)


def fit(split: Split, config: Config, run: Run) -> Fitted:
    return sequence_model.fit("gru4rec", network, split, config, run)
