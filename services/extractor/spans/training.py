"""Fits the adapters and the heads to marked reviews."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.extractor.findings import Span
from services.extractor.gold import GoldFile, GoldReview
from services.extractor.spans.decoding import score
from services.extractor.spans.network import (
    ASPECT,
    KINDS,
    NONE,
    OPINION,
    RELATIONS,
    Candidates,
    SpanNetwork,
)  # fmt: skip
from services.extractor.spans.windows import Window, Windows
from shared.embedding import batches, padded

OFFERED: Final = 0.3  # probability from which a marked span is paired whatever the model thinks of it


@dataclass(frozen=True, slots=True)
class Fit:
    """How it learns."""

    epochs: int = 8
    batch_tokens: int = 768
    adapter_rate: float = 1e-3
    head_rate: float = 1e-3
    warm_up: float = 0.06  # of all steps
    dropout: float = 0.1
    adapter_dropout: float = 0.05
    weight_decay: float = 0.01
    averaged: float = 0.995  # of the weights' moving average, which is what is kept
    relation_weight: float = 1.0
    half: bool = False  # whether the encoder's products are of bfloat16
    seed: int = 0


Tokens: TypeAlias = tuple[int, int]  # the first and the last
NOWHERE: Final[Tokens] = (0, 0)  # of an aspect that no word names


@dataclass(frozen=True, slots=True)
class Marked:
    """A window and what is marked in it: with probability 1 by people, with others by a teacher."""

    window: Window
    spans: tuple[dict[Tokens, float], ...]  # of each kind
    relations: dict[tuple[Tokens, Tokens], tuple[float, ...]]  # (aspect, opinion): of each relation; else NONE
    names_implicit: bool


def marked(windows: Windows, files: Sequence[GoldFile]) -> list[Marked]:
    """Every window of the files; a pair whose spans lie in two windows is in neither."""
    made = []
    for file in files:
        for window in windows.of([review.text for review in file.reviews]):
            made.append(_marked(window, file.reviews[window.row], file.names_implicit))
    return made


def _marked(window: Window, review: GoldReview, names_implicit: bool) -> Marked:
    spans: tuple[dict[Tokens, float], ...] = tuple({} for _ in range(KINDS))
    relations = {}
    for pair in review.pairs:
        opinion = _tokens(window, pair.opinion)
        aspect = NOWHERE if pair.aspect is None else _tokens(window, pair.aspect)
        if opinion:
            spans[OPINION][opinion] = 1.0
        if aspect and aspect != NOWHERE:
            spans[ASPECT][aspect] = 1.0
        if aspect and opinion:
            relations[aspect, opinion] = tuple(float(n == pair.polarity + 2) for n in range(RELATIONS))
    return Marked(window, spans, relations, names_implicit)


def _tokens(window: Window, span: Span) -> Tokens | None:
    """The first and the last token of the window that lie in the span; None where none does, or not all of it."""
    inside = [n for n, (a, b) in enumerate(window.places) if a < span[1] and b > span[0] and b > a]
    if not inside or window.places[1][0] > span[0] or window.places[-2][1] < span[1]:
        return None
    return inside[0], inside[-1]


def loss_of(model: SpanNetwork, batch: Sequence[Marked], relation_weight: float) -> Tensor:
    """The spans' binary cross-entropy and the pairs' cross-entropy, both by token."""
    ids, real = padded([one.window.ids for one in batch])
    states = model.states(ids, real)
    logits = model.heads.spans(states, real)
    possible = logits > float("-inf")
    target = torch.zeros_like(logits)
    for row, one in enumerate(batch):
        for kind in range(KINDS):
            for (first, last), probability in one.spans[kind].items():
                target[row, kind, first, last] = probability
    tokens = real.sum()
    of_spans = F.binary_cross_entropy_with_logits(logits[possible], target[possible], reduction="sum") / tokens
    # What is marked is always paired, beside what the model believes.
    offered = logits.detach().masked_fill((target > OFFERED) & possible, 1e4)
    scored = score(model.heads, states, offered)
    labels = _labels(batch, scored.aspects, scored.opinions)
    of_pairs = -(labels * scored.relations.log_softmax(-1)).sum()
    return of_spans + relation_weight * of_pairs / tokens


def _labels(batch: Sequence[Marked], aspects: Candidates, opinions: Candidates) -> Tensor:
    """(B, KA, KO, RELATIONS) probabilities; all 0 where nothing is offered, or nobody marks what no word names."""
    labels = torch.zeros(len(batch), aspects.real.shape[1], opinions.real.shape[1], RELATIONS)
    labels[..., NONE] = (aspects.real[:, :, None] & opinions.real[:, None, :]).float()
    for row, one in enumerate(batch):
        of_aspect, of_opinion = _numbers(aspects, row), _numbers(opinions, row)
        for (aspect, opinion), label in one.relations.items():
            if aspect in of_aspect and opinion in of_opinion:
                labels[row, of_aspect[aspect], of_opinion[opinion]] = torch.tensor(label)
        if not one.names_implicit:
            labels[row, 0] = 0.0
    return labels


def _numbers(spans: Candidates, row: int) -> dict[Tokens, int]:
    """Where each of a text's candidates stands."""
    tokens = zip(spans.first[row].tolist(), spans.last[row].tolist(), spans.real[row].tolist(), strict=True)
    return {(first, last): number for number, (first, last, real) in enumerate(tokens) if real}


class Averaged:
    """A moving average of what learns, which is steadier than any of its steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self.held = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        for name, p in model.named_parameters():
            if p.requires_grad:
                self.held[name].lerp_(p, 1 - decay)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights, for judging it; afterwards it goes on with its own."""
        own = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        training = model.training
        model.load_state_dict(self.held, strict=False)
        model.eval()
        try:
            yield
        finally:
            model.load_state_dict(own, strict=False)
            model.train(training)


def epochs(model: SpanNetwork, data: Sequence[Marked], fit: Fit) -> Iterator[tuple[int, float, Averaged]]:
    """Learns; after every epoch its number, the mean loss, and the averaged weights."""
    rng = np.random.default_rng(fit.seed)
    adapters = [p for p in model.encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": adapters, "lr": fit.adapter_rate}, {"params": list(model.heads.parameters()), "lr": fit.head_rate}],
        weight_decay=fit.weight_decay,
    )
    per_epoch = len(_shuffled(data, fit, np.random.default_rng(0)))
    steps = per_epoch * fit.epochs
    warm = max(1, int(steps * fit.warm_up))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
    )
    averaged = Averaged(model, fit.averaged)
    for epoch in range(1, fit.epochs + 1):
        model.train()
        total = 0.0
        made = _shuffled(data, fit, rng)
        for batch in made:
            loss = loss_of(model, batch, fit.relation_weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
            optimizer.step()
            schedule.step()
            averaged.update(model)
            total += loss.item()
        yield epoch, total / len(made), averaged


def _shuffled(data: Sequence[Marked], fit: Fit, rng: np.random.Generator) -> list[list[Marked]]:
    """Batches of windows of like length, in random order."""
    lengths = [len(one.window.ids) + int(rng.integers(8)) for one in data]
    made = [[data[n] for n in rows] for rows in batches(lengths, fit.batch_tokens)]
    return [made[n] for n in rng.permutation(len(made))]
