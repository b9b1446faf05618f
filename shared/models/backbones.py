"""The sequence encoders that other models are built on, by name: (B, L, d) and which columns are real -> (B, L, d)."""

from typing import Final

from torch import nn

from shared.models.bert4rec import BERT4Rec
from shared.models.gru4rec import GRU4Rec
from shared.models.sasrec import SASRec

NAMES: Final = ("sasrec", "gru4rec", "bert4rec")


def backbone(name: str, d: int, layers: int, heads: int, dropout: float, longest: int) -> nn.Module:
    """An encoder with the attribute `causal`: whether position t has seen positions up to t only.

    Inputs are items' vectors without positions, oldest first from column 0, at most `longest` columns. Raises
    ValueError for a name that is not one of NAMES.
    """
    if name == "sasrec":
        return SASRec(d, layers, heads, dropout, longest)
    if name == "gru4rec":
        return GRU4Rec(d, layers, dropout)
    if name == "bert4rec":
        return BERT4Rec(d, layers, heads, dropout, longest)
    raise ValueError(f"backbone {name!r} is not one of {', '.join(NAMES)}")
