"""A small span model of opinions: MiniLM's lower layers with low-rank adapters, and three heads.

Spans of aspects and of opinions are scored by a biaffine form of their first and last tokens (Yu et al. 2020,
ACL, arXiv 2005.07150); the best of each are paired, every opinion also with "no word names it", and each pair is
told to be none, negative, neutral or positive from its spans and their distance, as in Span-ASTE (Xu et al. 2021,
ACL, arXiv 2107.12214). The encoder's weights stay as they are: what is learnt is small matrices beside them
(LoRA, Hu et al. 2022, arXiv 2106.09685).
"""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.embedding import Encoder

KINDS: Final = 2  # of spans: aspect, opinion
ASPECT, OPINION = range(KINDS)
RELATIONS: Final = 4  # of a pair: none, negative, neutral, positive
NONE: Final = 0
_ADAPTED: Final = ("qkv", "out", "up", "down")
# Tokens between two spans, by classes that grow with the distance; 0: they touch or overlap.
_FURTHER: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the weights' file says of the network."""

    layers: int = 4
    rank: int = 32
    boundary: int = 128  # dimensions of a token as the first, or the last, of a span
    hidden: int = 256  # of the classifier of pairs
    width: int = 24  # tokens of the longest span
    kept: int = 24  # spans of each kind that are paired

    def __post_init__(self) -> None:
        if min(self.layers, self.rank, self.boundary, self.hidden, self.width, self.kept) < 1:
            raise ValueError("every number of the shape must be at least 1")


class Adapted(nn.Module):
    """A linear map W x + b that stays, and B A x beside it, which learns."""

    def __init__(self, linear: nn.Linear, rank: int, dropout: float) -> None:
        super().__init__()
        self.linear = linear
        self.a = nn.Parameter(torch.empty(rank, linear.in_features))
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.a, std=linear.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) + F.linear(F.linear(self.dropout(x), self.a), self.b)
        return y

    def merged(self) -> nn.Linear:
        """One linear map of the same values."""
        one = nn.Linear(self.linear.in_features, self.linear.out_features)
        one.weight = nn.Parameter(self.linear.weight + self.b @ self.a, requires_grad=False)
        one.bias = nn.Parameter(self.linear.bias.clone(), requires_grad=False)
        return one


def adapt(encoder: Encoder, shape: Shape, dropout: float = 0.0) -> None:
    """Keeps the encoder's first layers, each linear map of them Adapted; nothing else of it learns. In place."""
    encoder.requires_grad_(False)
    encoder.layers = encoder.layers[: shape.layers]
    for layer in encoder.layers:
        for name in _ADAPTED:
            setattr(layer, name, Adapted(getattr(layer, name), shape.rank, dropout))


def merge(encoder: Encoder) -> None:
    """The reverse of `adapt`, with what was learnt in the weights. In place."""
    for layer in encoder.layers:
        for name in _ADAPTED:
            setattr(layer, name, getattr(layer, name).merged())


@dataclass(frozen=True, slots=True)
class Candidates:
    """Spans of one kind that may stand in a pair, of every text of a batch."""

    first: Tensor  # (B, K) token positions
    last: Tensor  # (B, K), inclusive
    real: Tensor  # (B, K) bool: a span, not what fills the row up


class Heads(nn.Module):
    """What reads the tokens' states (B, T, E). Position 0 is [CLS] and stands for the aspect that no word names."""

    def __init__(self, dim: int, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = nn.Dropout(dropout)
        d, h = shape.boundary, shape.hidden
        self.first = nn.Linear(dim, KINDS * d)
        self.last = nn.Linear(dim, KINDS * d)
        self.biaffine = nn.Parameter(torch.zeros(KINDS, d + 1, d + 1))
        self.judged = nn.Linear(3 * dim, h)  # of an aspect's span
        self.judging = nn.Linear(3 * dim, h)  # of an opinion's span
        self.distance = nn.Embedding(2 * len(_FURTHER) + 2, h)
        self.product = nn.Linear(h, h)
        self.relation = nn.Linear(h, RELATIONS)
        nn.init.normal_(self.biaffine, std=0.02)
        nn.init.normal_(self.distance.weight, std=0.1)

    def spans(self, states: Tensor, real: Tensor) -> Tensor:
        """(B, T, E), (B, T) bool -> logits (B, KINDS, T, T) of the span from a row's token to a column's.

        -inf where no span can be: backwards, longer than `width`, over padding, [CLS] or [SEP].
        """
        b, t, _ = states.shape
        states = self.dropout(states)
        firsts = _with_one(F.gelu(self.first(states)).view(b, t, KINDS, -1))  # (B, T, KINDS, D + 1)
        lasts = _with_one(F.gelu(self.last(states)).view(b, t, KINDS, -1))
        logits = torch.einsum("bikd,kde,bjke->bkij", firsts, self.biaffine, lasts)
        return logits.masked_fill(~self._possible(real)[:, None], float("-inf"))

    def _possible(self, real: Tensor) -> Tensor:  # (B, T) -> (B, T, T)
        t = real.shape[1]
        ends = real.sum(1, keepdim=True) - 1  # of [SEP]
        place = torch.arange(t)
        inner = (place > 0) & (place < ends)  # (B, T)
        length = place[None, :] - place[:, None]  # (T, T)
        return inner[:, :, None] & inner[:, None, :] & ((length >= 0) & (length < self.shape.width))

    def relations(self, states: Tensor, aspects: Candidates, opinions: Candidates) -> Tensor:
        """(B, T, E) and candidates -> logits (B, KA, KO, RELATIONS)."""
        states = self.dropout(states)
        judged = self.judged(_span_states(states, aspects))[:, :, None]  # (B, KA, 1, H)
        judging = self.judging(_span_states(states, opinions))[:, None]  # (B, 1, KO, H)
        apart = self.distance(_distance(aspects, opinions))  # (B, KA, KO, H)
        mixed = judged + judging + apart + self.product(F.gelu(judged) * F.gelu(judging))
        logits: Tensor = self.relation(self.dropout(F.gelu(mixed)))
        return logits


class SpanNetwork(nn.Module):
    """The adapted encoder and the heads."""

    def __init__(self, encoder: Encoder, shape: Shape, *, dropout: float = 0.0, adapter_dropout: float = 0.0) -> None:
        super().__init__()
        adapt(encoder, shape, adapter_dropout)
        self.encoder = encoder
        self.heads = Heads(encoder.dim, shape, dropout)
        self.halved = False  # whether the encoder's products are of bfloat16, as while learning

    def states(self, ids: Tensor, real: Tensor) -> Tensor:
        """(B, T) int64, (B, T) bool: not padding -> (B, T, E) float32."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.halved):
            return self.encoder.states(ids, real).float()

    def learnt(self) -> dict[str, Tensor]:
        """What is not the encoder's own, by name."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)


def _span_states(states: Tensor, spans: Candidates) -> Tensor:
    """(B, T, E) -> (B, K, 3E): the first token's state, the last's, and the mean of all from the one to the other."""
    sums = F.pad(states.cumsum(1), (0, 0, 1, 0))  # (B, T + 1, E)
    length = (spans.last - spans.first + 1).clamp(min=1)[:, :, None]
    mean = (_at(sums, spans.last + 1) - _at(sums, spans.first)) / length
    return torch.cat([_at(states, spans.first), _at(states, spans.last), mean], -1)


def _at(x: Tensor, places: Tensor) -> Tensor:  # (B, T, E), (B, K) -> (B, K, E)
    return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))


def _distance(aspects: Candidates, opinions: Candidates) -> Tensor:
    """(B, KA, KO): the class of how far the aspect lies before (or behind) the opinion; the last class: nowhere."""
    before = opinions.first[:, None, :] - aspects.last[:, :, None]
    behind = aspects.first[:, :, None] - opinions.last[:, None, :]
    further = torch.tensor(_FURTHER)
    classes = torch.where(
        before > 0,
        torch.bucketize(before, further, right=True),
        torch.where(behind > 0, -torch.bucketize(behind, further, right=True), 0),
    )
    nowhere = 2 * len(_FURTHER) + 1
    return torch.where(aspects.last[:, :, None] == 0, nowhere, classes + len(_FURTHER))


def candidates(logits: Tensor, kind: int, kept: int, at_least: float) -> Candidates:
    """The `kept` best spans of a kind with a logit of `at_least`, of logits (B, KINDS, T, T); ties by place.

    Rows are as long as the longest needs; one text's candidates do not depend on the texts beside it.
    """
    b, _, t, _ = logits.shape
    flat = logits[:, kind].reshape(b, t * t)
    best, places = flat.topk(min(kept, t * t), dim=1)
    real = best >= at_least
    longest = max(1, int(real.sum(1).max()))
    places, real = places[:, :longest] * real[:, :longest], real[:, :longest]
    return Candidates(places // t, places % t, real)


def with_nowhere(spans: Candidates) -> Candidates:
    """The same with the aspect that no word names before them: the span of [CLS]."""
    none = spans.first.new_zeros(spans.first.shape[0], 1)
    return Candidates(
        torch.cat([none, spans.first], 1),
        torch.cat([none, spans.last], 1),
        torch.cat([none == 0, spans.real], 1),
    )
