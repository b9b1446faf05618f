"""From the network's logits to pairs of spans."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from services.extractor.findings import Span, overlap
from services.extractor.spans.network import (
    ASPECT,
    NONE,
    OPINION,
    Candidates,
    Heads,
    SpanNetwork,
    candidates,
    with_nowhere,
)
from services.extractor.spans.windows import Window, Windows
from shared.embedding import batches, padded

LEAST_LOGIT: Final = -3.0  # of a span that is paired: more are judged than stay
_POLARITIES: Final = (-1, 0, 1)  # of the relations behind NONE


@dataclass(frozen=True, slots=True)
class SpanPair:
    """A pair of spans of a text; `aspect` None: no word names it."""

    aspect: Span | None
    opinion: Span
    polarity: int
    probability: float


@dataclass(frozen=True, slots=True)
class Scored:
    """What the heads say of a batch."""

    aspects: Candidates  # the first of each text: no word names it
    opinions: Candidates
    relations: Tensor  # (B, KA, KO, RELATIONS) logits


def score(heads: Heads, states: Tensor, spans: Tensor) -> Scored:
    """States (B, T, E) and logits of spans (B, KINDS, T, T) -> the relations of the likeliest spans."""
    aspects = with_nowhere(candidates(spans, ASPECT, heads.shape.kept, LEAST_LOGIT))
    opinions = candidates(spans, OPINION, heads.shape.kept, LEAST_LOGIT)
    return Scored(aspects, opinions, heads.relations(states, aspects, opinions))


@torch.inference_mode()
def pairs_of(network: SpanNetwork, windows: Windows, texts: Sequence[str], threshold: float) -> list[list[SpanPair]]:
    """The pairs of each text, window by window; a text's do not depend on the texts beside it (to rounding)."""
    cut = windows.of(texts)
    pairs: list[list[SpanPair]] = [[] for _ in texts]
    for numbers in batches([len(window.ids) for window in cut]):
        batch = [cut[number] for number in numbers]
        ids, real = padded([window.ids for window in batch])
        states = network.states(ids, real)
        scored = score(network.heads, states, network.heads.spans(states, real))
        for window, found in zip(batch, decode(scored, batch, threshold), strict=True):
            pairs[window.row].extend(found)
    return pairs


def decode(scored: Scored, windows: Sequence[Window], threshold: float) -> Iterator[list[SpanPair]]:
    """The pairs of each window, likeliest first: those of at least `threshold` that no likelier one contradicts."""
    probabilities = scored.relations.softmax(-1)
    allowed = scored.aspects.real[:, :, None] & scored.opinions.real[:, None, :]
    likely = allowed & (1.0 - probabilities[..., NONE] >= threshold)
    for row, window in enumerate(windows):
        found = []
        for a, o in torch.nonzero(likely[row]).tolist():
            none, *of_polarity = probabilities[row, a, o].tolist()
            found.append(
                SpanPair(
                    _places(window, scored.aspects, row, a),
                    _places(window, scored.opinions, row, o) or (0, 0),
                    _POLARITIES[of_polarity.index(max(of_polarity))],
                    1.0 - none,
                )
            )
        yield _consistent(found)


def _places(window: Window, spans: Candidates, row: int, number: int) -> Span | None:
    first, last = int(spans.first[row, number]), int(spans.last[row, number])
    return (window.places[first][0], window.places[last][1]) if last else None


def _consistent(found: list[SpanPair]) -> list[SpanPair]:
    kept: list[SpanPair] = []
    for one in sorted(found, key=lambda f: (-f.probability, f.opinion, f.aspect or (0, 0))):
        if not any(_contradict(one, other) for other in kept):
            kept.append(one)
    return kept


def _contradict(one: SpanPair, other: SpanPair) -> bool:
    """Two readings of the same words: opinions that overlap without being one, or one opinion of aspects that do."""
    if one.opinion != other.opinion:
        return overlap(one.opinion, other.opinion)
    return one.aspect is None or other.aspect is None or overlap(one.aspect, other.aspect)
