"""From a text to its pairs: found by the provider, proven by a quote, named, chosen, embedded."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.extractor import metrics
from services.extractor.attributes import Attributes
from services.extractor.cache import Cache
from services.extractor.findings import Failure, Finding, Found, NothingUsable, Provider
from services.extractor.quotes import clean, locate, shortened
from services.extractor.vectors import Vectors
from shared.errors import Unavailable
from shared.events import Pair, content_hash
from shared.graph.state import MAX_PAIRS_PER_REVIEW
from shared.projection import opinion_text

MAX_ASPECT_BYTES: Final = 64
MAX_PHRASE_BYTES: Final = 60  # leaves a quote most of what a pair may hold
MAX_FINDINGS: Final = 64  # of one text, whatever the provider answers


@dataclass(frozen=True, slots=True)
class Extracted:
    """Pairs in the order of the text; `failure` says why there are none where the provider gave nothing usable."""

    extractor: str  # who found them, or did not
    pairs: tuple[Pair, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Proven:
    """A finding whose quote is in the text."""

    judged: str  # a name of the set, or words that are to be mapped to one
    phrase: str
    polarity: int
    start: int
    end: int
    strength: float


class Extraction:
    def __init__(self, provider: Provider, attributes: Attributes, vectors: Vectors, *, cached_texts: int) -> None:
        self._provider = provider
        self._attributes = attributes
        self._vectors = vectors
        self._cache: Cache[str, Extracted] = Cache(cached_texts)

    async def pairs(self, texts: Sequence[str]) -> list[Extracted]:
        """One answer a text; equal texts are asked for once, and not again while they are remembered.

        Raises Unavailable when a provider may succeed later.
        """
        keys = [content_hash(text) for text in texts]
        known = {key: held for key in set(keys) if (held := self._cache.get(key)) is not None}
        unknown = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        metrics.CACHE.labels("extractions", "hit").inc(len(keys) - len(unknown))
        metrics.CACHE.labels("extractions", "miss").inc(len(unknown))
        if unknown:
            known |= await self._extracted(unknown)
        return [known[key] for key in keys]

    async def _extracted(self, text_of: dict[str, str]) -> dict[str, Extracted]:
        """Keys to what their texts hold. One that must wait does not undo the others: they are remembered."""
        started = time.perf_counter()
        answers = dict(zip(text_of, await self._provider.find(list(text_of.values())), strict=True))
        metrics.PROVIDER_SECONDS.labels(self._provider.name.split("/")[0]).observe(time.perf_counter() - started)
        found = {key: answer for key, answer in answers.items() if isinstance(answer, Found)}
        proven = [_proven(text_of[key], answer.findings) for key, answer in found.items()]
        pairs = await self._paired([text_of[key] for key in found], proven)
        extracted = {key: Extracted(found[key].by, of) for key, of in zip(found, pairs, strict=True)}
        extracted |= {key: self._failed(answer) for key, answer in answers.items() if isinstance(answer, NothingUsable)}
        for key, one in extracted.items():
            self._cache.put(key, one)
        for answer in answers.values():
            if isinstance(answer, Unavailable):
                raise answer
        return extracted

    async def _paired(self, texts: Sequence[str], proven: Sequence[Sequence[Proven]]) -> list[tuple[Pair, ...]]:
        names = iter(await self._attributes([(p.judged, p.phrase) for found in proven for p in found]))
        chosen = [choose([(next(names), p) for p in found]) for found in proven]
        phrases = [opinion_text(p.phrase, p.polarity) for found in chosen for _, p in found]
        vectors = iter(await self._vectors.opinions(phrases) if phrases else ())
        return [
            tuple(
                Pair(name, p.phrase, next(vectors), p.polarity, p.start, p.end, text[p.start : p.end])
                for name, p in found
            )
            for text, found in zip(texts, chosen, strict=True)
        ]

    def _failed(self, answer: NothingUsable) -> Extracted:
        metrics.FAILURES.labels(answer.reason).inc()
        return Extracted(answer.by or self._provider.name, failure=answer.reason)


def choose(found: Sequence[tuple[str, Proven]]) -> list[tuple[str, Proven]]:
    """At most four, in the order of the text: the strongest of each attribute first, then the next strongest."""
    ranked = sorted(found, key=lambda one: -one[1].strength)
    first: dict[str, tuple[str, Proven]] = {}
    for one in ranked:
        first.setdefault(one[0], one)
    distinct: dict[tuple[str, str], tuple[str, Proven]] = {}
    for name, proven in [*first.values(), *ranked]:
        distinct.setdefault((name, proven.phrase), (name, proven))
    kept = list(distinct.values())[:MAX_PAIRS_PER_REVIEW]
    metrics.DROPPED.labels("too_many").inc(len(found) - len(kept))
    return sorted(kept, key=lambda one: (one[1].start, one[1].end, one[0], one[1].phrase))


def _proven(text: str, findings: Sequence[Finding]) -> list[Proven]:
    proven = []
    for finding in findings[:MAX_FINDINGS]:
        phrase = clean(finding.opinion, MAX_PHRASE_BYTES)
        span = locate(text, finding.quote, finding.near)
        if span is None or not phrase:
            metrics.DROPPED.labels("quote_not_found" if span is None else "no_opinion").inc()
            continue
        judged = clean(finding.attribute or finding.aspect, MAX_ASPECT_BYTES)
        start, end = span[0], shortened(text, *span, phrase)
        proven.append(Proven(judged, phrase, finding.polarity, start, end, finding.strength))
    return proven
