"""BERT4Rec: attention both ways, taught by filling in masked items (Sun et al., CIKM 2019).

Training hides a share of each history and asks for it (Cloze, section 3.6); as in the paper, some samples hide the
end only. When an item is hidden, so is everything its user met at the same time: neighbours of one day lie in no
order, and would explain each other as nothing can at serving. A question is the history with a mask after it.
A catalogue's item is asked for with the vector that it is read with (section 3.5), norms come before the layers.
Shapes: B users, L history, d width, Q questions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.models import sequence_model
from shared.models.features import padded
from shared.models.fitting import Fitted, Run
from shared.models.sasrec import Attention
from shared.models.sequence_model import SequenceLearner, SequenceModel, prefixes
from shared.models.sequences import Sequences
from shared.models.split import Split

BUCKETED: Final = 16  # batches' worth of histories, drawn at random, that are sorted by length


@dataclass(frozen=True)
class Config(sequence_model.Config):
    layers: int = 2
    heads: int = 2
    hidden: float = 0.3  # share of a history's times that a sample hides
    end_only: float = 0.3  # share of the samples that hide the last time alone
    copies: int = 5  # samples of each history in an epoch


@dataclass(frozen=True)
class Clozes:
    """Histories with holes: `hidden` (B, L) is not read, and is asked for."""

    history: Tensor  # (B, L) rows
    real: Tensor  # (B, L)
    hidden: Tensor  # (B, L)
    users: Tensor  # (B,) places in Sequences.users

    def share(self, rank: int, world: int) -> "Clozes":
        """Every `world`-th row from `rank` on."""
        rows = slice(rank, None, world)
        return Clozes(self.history[rows], self.real[rows], self.hidden[rows], self.users[rows])


class Block(nn.Module):
    """A transformer layer with GELU (section 3.3), pre-norm."""

    def __init__(self, d: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = Attention(d, heads, dropout)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # (B, L, d) -> (B, L, d)
        x = x + self.drop(self.attention(self.norm1(x), mask))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))  # type: ignore[no-any-return]


class BERT4Rec(nn.Module):
    """The encoder: every position sees all that is real, later ones too. Whoever asks of it must hide the future."""

    causal = False

    def __init__(self, d: int, layers: int = 2, heads: int = 2, dropout: float = 0.3, longest: int = 51) -> None:
        super().__init__()
        self.scale = d**0.5
        self.position = nn.Embedding(longest, d)
        nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(d, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:  # (B, L, d), (B, L) -> (B, L, d)
        x = self.drop(self.scale * x + self.position.weight[: x.shape[1]])
        own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)  # padding looks at itself, and is not read
        mask = (real[:, None] | own)[:, None]  # (B, 1, L, L)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)  # type: ignore[no-any-return]


class Network(SequenceModel):
    def __init__(self, items: int, config: Config) -> None:
        encoder = BERT4Rec(config.d, config.layers, config.heads, config.dropout, config.longest + 1)
        super().__init__(encoder, items, config)
        self.mask = nn.Parameter(torch.randn(config.d) * sequence_model.STD)
        self.head = nn.Sequential(nn.Linear(config.d, config.d), nn.GELU(), nn.LayerNorm(config.d))

    def forward(self, history: Tensor, real: Tensor, at: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, L), (B, L), (Q, 2) -> (Q, d): of each question's prefix, or, with `hidden`, of the holes at `at`."""
        if hidden is not None:
            x = torch.where(hidden[:, :, None], self.mask, self.items(history))
            return self.head(self.encoder(x, real)[at[:, 0], at[:, 1]])  # type: ignore[no-any-return]
        found, which = prefixes(history, real, at)
        held = found.real.sum(1)  # (Q',): the mask's column
        rows = torch.arange(len(held), device=held.device)
        real = F.pad(found.real, (0, 1))
        hidden = torch.zeros_like(real)
        real[rows, held] = hidden[rows, held] = True
        states: Tensor = self(F.pad(found.history, (0, 1)), real, torch.stack([rows, held], 1), hidden)
        return states[which]


class Learner(SequenceLearner):
    """Asks for what is hidden, in place of the split's questions; validation asks as everywhere."""

    def batches(self, rng: np.random.Generator) -> Iterator[Clozes]:
        assert isinstance(self.config, Config)
        for _ in range(self.config.copies):
            yield from clozes(self.sequences, self.config, rng, self.repeats, self.device)

    def loss(self, batch: Clozes) -> tuple[Tensor, int]:
        at = batch.hidden.nonzero()  # (Q, 2)
        states = self.network(batch.history, batch.real, at, batch.hidden)
        return self.loss_of(states, batch.history[at[:, 0], at[:, 1]], at[:, 0], batch.users), len(at)


def clozes(found: Sequences, config: Config, rng: np.random.Generator, repeats: bool, device: str) -> Iterator[Clozes]:
    """Everyone with events of two times or more, once; longer histories in pieces of `longest`."""
    pieces = list(_pieces(found, config.longest, repeats))
    order = rng.permutation(len(pieces))
    batches: list[list[int]] = []
    for start in range(0, len(order), config.batch * BUCKETED):
        bucket = sorted(order[start : start + config.batch * BUCKETED].tolist(), key=lambda at: len(pieces[at][1]))
        batches += [bucket[at : at + config.batch] for at in range(0, len(bucket), config.batch)]
    for which in rng.permutation(len(batches)):
        yield _cloze([pieces[at] for at in batches[which]], config, rng, device)


def hide(times: NDArray[np.float64], config: Config, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(L,) ascending -> (L,): which are hidden; those of one time together, at least one time and never all."""
    _, moment = np.unique(times, return_inverse=True)
    last = int(moment[-1])
    if rng.random() < config.end_only:
        return np.asarray(moment == last)
    drawn = rng.random(last + 1)
    hidden = drawn < config.hidden
    hidden[drawn.argmin()] = True
    hidden[drawn.argmax()] = False
    return np.asarray(hidden[moment])


Piece = tuple[int, NDArray[np.int64], NDArray[np.float64]]  # a user, rows, times


def _pieces(found: Sequences, longest: int, repeats: bool) -> Iterator[Piece]:
    bounds = found.offsets.tolist()
    for user, (start, end) in enumerate(pairwise(bounds)):
        rows, times = found.items[start:end], found.times[start:end]
        if not repeats:  # met again is met no more: a hole that is filled elsewhere in the history is no question
            first = np.sort(np.unique(rows, return_index=True)[1])
            rows, times = rows[first], times[first]
        for stop in range(len(rows), 0, -longest):
            low = max(0, stop - longest)
            if times[low] < times[stop - 1]:
                yield user, rows[low:stop], times[low:stop]


def _cloze(pieces: list[Piece], config: Config, rng: np.random.Generator, device: str) -> Clozes:
    history, real = padded([rows.tolist() for _, rows, _ in pieces], device)
    hidden = np.zeros(real.shape, np.bool_)
    for at, (_, _, times) in enumerate(pieces):
        hidden[at, : len(times)] = hide(times, config, rng)
    users = torch.tensor([user for user, _, _ in pieces], device=device)
    return Clozes(history, real, torch.from_numpy(hidden).to(device), users)


def network(config: Config, items: int) -> SequenceModel:
    return Network(items, config)


def fit(split: Split, config: Config, run: Run) -> Fitted:
    return sequence_model.fit("bert4rec", network, split, config, run, Learner)
