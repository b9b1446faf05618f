"""What teachers believe of a text, for a smaller network to learn (Hinton et al. 2015, arXiv 1503.02531)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import torch

from services.extractor.spans.decoding import Scored, score
from services.extractor.spans.network import KINDS, NONE, RELATIONS, Candidates, SpanNetwork
from services.extractor.spans.training import NOWHERE, Marked, Tokens
from services.extractor.spans.windows import Window
from shared.embedding import batches, padded

LEAST: Final = 0.02  # probability of what is told at all
_NONE: Final = tuple(float(relation == NONE) for relation in range(RELATIONS))
Pairs = dict[tuple[Tokens, Tokens], tuple[float, ...]]


@torch.inference_mode()
def believed(teacher: SpanNetwork, windows: Sequence[Window]) -> list[Marked]:
    """Of each window the spans and the pairs that the teacher thinks possible, with probabilities."""
    told: dict[int, Marked] = {}
    for numbers in batches([len(window.ids) for window in windows]):
        ids, real = padded([windows[number].ids for number in numbers])
        states = teacher.states(ids, real)
        logits = teacher.heads.spans(states, real)
        scored, spans = score(teacher.heads, states, logits), logits.sigmoid()
        for row, number in enumerate(numbers):
            of_kinds = tuple(_spans(spans[row, kind]) for kind in range(KINDS))
            told[number] = Marked(windows[number], of_kinds, _pairs(scored, row), names_implicit=True)
    return [told[number] for number in range(len(windows))]


def _spans(probabilities: torch.Tensor) -> dict[Tokens, float]:  # (T, T)
    likely = torch.nonzero(probabilities > LEAST)
    values = probabilities[likely[:, 0], likely[:, 1]].tolist()
    return {(first, last): value for (first, last), value in zip(likely.tolist(), values, strict=True)}


def _pairs(scored: Scored, row: int) -> Pairs:
    probabilities = scored.relations[row].softmax(-1)  # (KA, KO, RELATIONS)
    offered = scored.aspects.real[row][:, None] & scored.opinions.real[row][None, :]
    likely = torch.nonzero(offered & (1.0 - probabilities[..., NONE] > LEAST)).tolist()
    return {
        (_tokens(scored.aspects, row, a), _tokens(scored.opinions, row, o)): tuple(probabilities[a, o].tolist())
        for a, o in likely
    }


def _tokens(spans: Candidates, row: int, number: int) -> Tokens:
    return int(spans.first[row, number]), int(spans.last[row, number])


def mixed(parts: Sequence[tuple[float, Marked]]) -> Marked:
    """The mean of what is told of one window, by weights; of what no word names by those who mark such."""
    spans = tuple(_mean_spans([(weight, one.spans[kind]) for weight, one in parts]) for kind in range(KINDS))
    pairs = {pair for _, one in parts for pair in one.relations}
    names_implicit = any(one.names_implicit for _, one in parts)
    return Marked(parts[0][1].window, spans, {pair: _mean_pair(parts, pair) for pair in pairs}, names_implicit)


def _mean_spans(parts: Sequence[tuple[float, Mapping[Tokens, float]]]) -> dict[Tokens, float]:
    mean: dict[Tokens, float] = defaultdict(float)
    for weight, spans in parts:
        for tokens, probability in spans.items():
            mean[tokens] += weight * probability
    return dict(mean)


def _mean_pair(parts: Sequence[tuple[float, Marked]], pair: tuple[Tokens, Tokens]) -> tuple[float, ...]:
    """Who does not tell the pair tells NONE."""
    telling = [(weight, one) for weight, one in parts if one.names_implicit or pair[0] != NOWHERE]
    told = [(weight, one.relations.get(pair, _NONE)) for weight, one in telling]
    total = sum(weight for weight, _ in told)
    return tuple(sum(weight * values[n] for weight, values in told) / total for n in range(RELATIONS))
