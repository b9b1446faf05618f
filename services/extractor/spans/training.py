"""Fits the adapters and the heads to marked reviews."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.extractor.findings import Span
from services.extractor.gold import GoldFile, GoldReview
from services.extractor.spans.decoding import LEAST_LOGIT
from services.extractor.spans.network import (
    ASPECT,
    KINDS,
    NONE,
    OPINION,
    Candidates,
    SpanNetwork,
    candidates,
    with_nowhere,
)  # fmt: skip
from services.extractor.spans.windows import Window, Windows
from shared.embedding import batches, padded

IGNORED: Final = -100


@dataclass(frozen=True, slots=True)
class Fit:
    """How it learns."""

    epochs: int = 12
    batch_tokens: int = 768
    adapter_rate: float = 1e-3
    head_rate: float = 1e-3
    warm_up: float = 0.06  # of all steps
    dropout: float = 0.2
    adapter_dropout: float = 0.1
    weight_decay: float = 0.01
    averaged: float = 0.995  # of the weights' moving average, which is what is kept
    relation_weight: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Marked:
    """A window and what is marked in it, by tokens [first, last]."""

    window: Window
    spans: tuple[frozenset[tuple[int, int]], ...]  # of each kind
    relation: dict[tuple[tuple[int, int], tuple[int, int]], int]  # (aspect, opinion); (0, 0): no word names it
    names_implicit: bool


def marked(windows: Windows, files: Sequence[GoldFile]) -> list[Marked]:
    """Every window of the files; a pair whose spans lie in two windows is in neither."""
    made = []
    for file in files:
        for window in windows.of([review.text for review in file.reviews]):
            made.append(_marked(window, file.reviews[window.row], file.names_implicit))
    return made


def _marked(window: Window, review: GoldReview, names_implicit: bool) -> Marked:
    spans: list[set[tuple[int, int]]] = [set() for _ in range(KINDS)]
    relation = {}
    for pair in review.pairs:
        opinion = _tokens(window, pair.opinion)
        aspect = (0, 0) if pair.aspect is None else _tokens(window, pair.aspect)
        if opinion:
            spans[OPINION].add(opinion)
        if aspect and aspect != (0, 0):
            spans[ASPECT].add(aspect)
        if aspect and opinion:
            relation[aspect, opinion] = pair.polarity + 2
    return Marked(window, tuple(map(frozenset, spans)), relation, names_implicit)


def _tokens(window: Window, span: Span) -> tuple[int, int] | None:
    """The first and the last token of the window that lie in the span; None where none does, or not all of it."""
    inside = [n for n, (a, b) in enumerate(window.places) if a < span[1] and b > span[0] and b > a]
    if not inside or window.places[1][0] > span[0] or window.places[-2][1] < span[1]:
        return None
    return inside[0], inside[-1]


def loss_of(model: SpanNetwork, batch: Sequence[Marked], relation_weight: float) -> Tensor:
    """The spans' binary cross-entropy and the pairs' cross-entropy, both by token."""
    ids, real = padded([one.window.ids for one in batch])
    states = model.encoder.states(ids, real)
    logits = model.heads.spans(states, real)
    possible = logits > float("-inf")
    target = torch.zeros_like(logits)
    for row, one in enumerate(batch):
        for kind in range(KINDS):
            for first, last in one.spans[kind]:
                target[row, kind, first, last] = 1.0
    tokens = real.sum()
    of_spans = F.binary_cross_entropy_with_logits(logits[possible], target[possible], reduction="sum") / tokens
    # What is marked is always paired, beside what the model believes.
    offered = logits.detach().masked_fill((target > 0) & possible, 1e4)
    kept = model.heads.shape.kept
    aspects = with_nowhere(candidates(offered, ASPECT, kept, LEAST_LOGIT))
    opinions = candidates(offered, OPINION, kept, LEAST_LOGIT)
    relations = model.heads.relations(states, aspects, opinions)
    labels = _labels(batch, aspects, opinions)
    of_pairs = F.cross_entropy(relations.flatten(0, 2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return of_spans + relation_weight * of_pairs / tokens


def _labels(batch: Sequence[Marked], aspects: Candidates, opinions: Candidates) -> Tensor:
    """(B, KA, KO) relations; IGNORED where nothing is offered, or where nobody marked what no word names."""
    labels = torch.where(aspects.real[:, :, None] & opinions.real[:, None, :], NONE, IGNORED)
    for row, one in enumerate(batch):
        if not one.names_implicit:
            labels[row, 0] = IGNORED
        of_aspect, of_opinion = _numbers(aspects, row), _numbers(opinions, row)
        for (aspect, opinion), label in one.relation.items():
            if aspect in of_aspect and opinion in of_opinion:
                labels[row, of_aspect[aspect], of_opinion[opinion]] = label
    return labels


def _numbers(spans: Candidates, row: int) -> dict[tuple[int, int], int]:
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
