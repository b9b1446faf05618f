"""Providers without an LLM, which read English; and one finder: rules over spaCy's parse, polarity from a lexicon."""

import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

from services.extractor import metrics
from services.extractor.findings import Answered, Finding, Found, NothingUsable, Span
from services.extractor.languages import Languages
from services.extractor.lexicon import Lexicon
from services.extractor.rules import PLAIN_ADVERBS, Judgement, judgements
from services.extractor.sentences import sentences_of
from services.extractor.spacy_pipeline import pipeline
from services.extractor.worker import Worker
from shared.embedding import encodable
from shared.events import MAX_QUOTE_CHARS

SENTENCES_AT_ONCE: Final = 64
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


class Rules:
    """Finds opinions in texts. Blocking: call it from the worker thread."""

    def __init__(self, model: str = "", max_chars: int = 2000, max_sentences: int = 4) -> None:
        """`model`: a package or folder of a spaCy pipeline with tagger and parser; empty: the bundled wheel's.

        Of a text the first `max_chars` are searched, and there the `max_sentences` with the strongest words.
        """
        self._nlp = pipeline(model, ("tagger", "parser"))
        self._lexicon = Lexicon()
        self._max_chars = max_chars
        self._max_sentences = max_sentences

    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        found: list[list[Finding]] = [[] for _ in texts]
        sentences = (
            (encodable(text[start:end]), (row, start, end))
            for row, text in enumerate(texts)
            for start, end in self._telling_sentences(text[: self._max_chars])
        )
        for doc, (row, start, end) in self._nlp.pipe(sentences, as_tuples=True, batch_size=SENTENCES_AT_ONCE):
            sentence = texts[row][start:end]
            found[row].extend(_finding(doc, sentence, judgement, start) for judgement in judgements(doc, self._lexicon))
        return found

    def _telling_sentences(self, text: str) -> list[tuple[int, int]]:
        """Spans, in order. Parsing is what costs, so a sentence without any opinion word is not parsed."""
        told = [(self._telling(text[start:end]), start, end) for start, end in sentences_of(text)]
        told = sorted((span for span in told if span[0] > 0.0), key=lambda span: -span[0])
        return sorted((start, end) for _, start, end in told[: self._max_sentences])

    def _telling(self, sentence: str) -> float:
        valences = (self._lexicon(word.lower()) for word in _WORD.findall(sentence))
        return sum(abs(valence) + 0.1 for valence in valences if valence is not None)


class Finder(Protocol):
    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        """The findings of each text. Blocking."""
        ...


class OfflineProvider:
    """A finder in the worker thread, as a Provider."""

    def __init__(self, name: str, finder: Finder, worker: Worker, languages: Languages | None = None) -> None:
        """`languages`: of texts that are surely not English nothing is said; None: all are read as if they were."""
        self.name = name
        self._finder = finder
        self._worker = worker
        self._languages = languages

    async def find(self, texts: Sequence[str]) -> list[Answered]:
        return await self._worker.run(self._find, texts)

    def _find(self, texts: Sequence[str]) -> list[Answered]:
        foreign = [self._is_foreign(text) for text in texts]
        findings = iter(self._finder.find([text for text, skip in zip(texts, foreign, strict=True) if not skip]))
        return [
            NothingUsable("unsupported_language", self.name) if skip else Found(next(findings), self.name)
            for skip in foreign
        ]

    def _is_foreign(self, text: str) -> bool:
        language = self._languages.foreign(text) if self._languages else None
        if language:
            metrics.FOREIGN.labels(language).inc()
        return language is not None

    async def close(self) -> None:
        """Nothing is open: the worker is its owner's to stop."""


def _finding(doc: Any, sentence: str, judgement: Judgement, offset: int) -> Finding:
    words = [*judgement.opinion, *(_written(doc, i) for i in judgement.negators)]
    start, end = _span(doc, [*judgement.aspect, *words])
    if end - start > MAX_QUOTE_CHARS:
        start, end = _span(doc, words)
    return Finding(
        aspect=" ".join(doc[i].lower_ for i in judgement.aspect),
        opinion=_phrase(doc, judgement),
        polarity=(judgement.valence > 0.0) - (judgement.valence < 0.0),
        quote=sentence[start:end],
        near=offset + start,
        strength=judgement.strength,
        aspect_at=_at(doc, judgement.aspect, offset),
        opinion_at=_at(doc, words, offset),
    )


def _phrase(doc: Any, judgement: Judgement) -> str:
    """The opinion's words without what only stresses them, so that phrases repeat: "not", "easy", "to", "use"."""
    words = [doc[i].lower_ for i in judgement.opinion]
    telling = [word for word in words if word not in PLAIN_ADVERBS] or words
    return " ".join(["not", *telling] if judgement.negators else telling)


def _written(doc: Any, negator: int) -> int:
    """The "n't" of "doesn't" is quoted with the "does"."""
    return negator - 1 if negator > 0 and not doc[negator - 1].whitespace_ else negator


def _at(doc: Any, positions: Sequence[int], offset: int) -> Span | None:
    if not positions:
        return None
    start, end = _span(doc, positions)
    return offset + start, offset + end


def _span(doc: Any, positions: Sequence[int]) -> Span:
    first, last = doc[min(positions)], doc[max(positions)]
    return first.idx, last.idx + len(last)
