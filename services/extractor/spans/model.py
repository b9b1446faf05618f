"""The span model as what a Provider finds opinions with, and the file of its weights."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from services.extractor.findings import Finding, Span
from services.extractor.rules import PLAIN_ADVERBS
from services.extractor.spans.decoding import SpanPair, pairs_of
from services.extractor.spans.network import Shape, SpanNetwork, merge
from services.extractor.spans.windows import Windows
from shared import embedding
from shared.events import MAX_QUOTE_CHARS
from shared.packed import pack

WEIGHTS: Final = Path(__file__).with_name("weights.safetensors")


class WeightsUnavailable(Exception):
    """No usable weights where they were expected."""


class About(msgspec.Struct):
    """What a weights' file says of itself."""

    shape: Shape
    threshold: float  # probability from which a pair is told
    trained: str  # on what, in words
    encoder: str  # digest_of the one that they were learnt beside


class Spans:
    """Finds opinions in texts. Blocking: call it from the worker thread. Equal texts give equal findings."""

    def __init__(self, encoder: str = "", weights: Path = WEIGHTS, max_chars: int = 2000) -> None:
        """`encoder`: folder of the MiniLM that the weights were trained on; empty: the bundled one.

        Of a text the first `max_chars` are read. Raises EmbeddingUnavailable, WeightsUnavailable.
        """
        base, tokenizer = embedding.load(encoder or None)
        network, self.about = load(base, weights)
        merge(network.encoder)
        pack(network)
        self._network = network.eval().requires_grad_(False)
        self._windows = Windows(tokenizer)
        self._max_chars = max_chars

    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        texts = [text[: self._max_chars] for text in texts]
        pairs = pairs_of(self._network, self._windows, texts, self.about.threshold)
        return [findings_of(text, found) for text, found in zip(texts, pairs, strict=True)]


def findings_of(text: str, found: Sequence[SpanPair]) -> list[Finding]:
    """In the order of the text."""
    return [_finding(text, one) for one in sorted(found, key=lambda f: (f.opinion, f.aspect or (0, 0)))]


def _finding(text: str, found: SpanPair) -> Finding:
    start, end = _quote(found)
    return Finding(
        aspect=text[slice(*found.aspect)] if found.aspect else "",
        opinion=_phrase(text[slice(*found.opinion)]),
        polarity=found.polarity,
        quote=text[start:end],
        near=start,
        strength=found.probability,
        aspect_at=found.aspect,
        opinion_at=found.opinion,
    )


def _quote(found: SpanPair) -> Span:
    """From the first word of either to the last; the opinion alone where that is too long."""
    if found.aspect is None:
        return found.opinion
    start, end = min(found.aspect[0], found.opinion[0]), max(found.aspect[1], found.opinion[1])
    return (start, end) if end - start <= MAX_QUOTE_CHARS else found.opinion


def _phrase(opinion: str) -> str:
    """Without the words before it that only stress it, so that phrases repeat."""
    words = opinion.split()
    first = next((n for n, word in enumerate(words) if word.casefold() not in PLAIN_ADVERBS), 0)
    return " ".join(words[first:])


def load(encoder: embedding.Encoder, weights: Path) -> tuple[SpanNetwork, About]:
    """The network with the file's weights beside the encoder's. Raises WeightsUnavailable."""
    try:
        with safe_open(weights, "pt") as file:
            about = msgspec.json.decode(file.metadata()["about"], type=About)
            held = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  # it is no dict
        if about.encoder != digest_of(encoder):
            raise ValueError("they were learnt beside another encoder than this one")
        network = SpanNetwork(encoder, about.shape)
        missing = network.learnt().keys() ^ held.keys()
        if missing:
            raise ValueError(f"weights are missing or too many: {', '.join(sorted(missing)[:3])}")
        network.load_state_dict(held, strict=False)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsUnavailable(f"no usable weights of the span model in {weights}: {error}") from error
    return network, about


def digest_of(encoder: embedding.Encoder) -> str:
    """Tells encoders apart by their first tokens' vectors."""
    return hashlib.sha256(encoder.word.weight[:1000].numpy().tobytes()).hexdigest()[:16]


def save(learnt: dict[str, Tensor], about: About, weights: Path) -> None:
    """In half precision: the file is a few megabytes."""
    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in learnt.items()}
    save_file(tensors, weights, metadata={"about": msgspec.json.encode(about).decode()})
