"""How good a provider's findings are, held against the pairs that people marked."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from services.extractor.findings import Finding, Span, overlap
from services.extractor.gold import GoldFile, GoldReview
from services.extractor.quotes import locate

Pair: TypeAlias = tuple[Span | None, Span]  # aspect (None: no word names it) and opinion
Same: TypeAlias = Callable[[Span | None, Span | None], bool]


@dataclass(slots=True)
class Counted:
    """Of one kind of thing: how many were found, how many are marked, and how many are both."""

    found: int = 0
    marked: int = 0
    both: int = 0

    @property
    def precision(self) -> float:
        return self.both / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.both / self.marked if self.marked else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.both / (self.found + self.marked) if self.found + self.marked else 0.0

    def add(self, found: int, marked: int, both: int) -> None:
        self.found += found
        self.marked += marked
        self.both += both


@dataclass(slots=True)
class Scores:
    """Of one provider on one file."""

    exact: Counted = field(default_factory=Counted)
    lenient: Counted = field(default_factory=Counted)
    aspects: Counted = field(default_factory=Counted)
    opinions: Counted = field(default_factory=Counted)
    polarity_right: int = 0  # of the lenient matches
    findings: int = 0
    grounded: int = 0

    @property
    def polarity_accuracy(self) -> float:
        return self.polarity_right / self.lenient.both if self.lenient.both else 0.0

    @property
    def grounded_share(self) -> float:
        return self.grounded / self.findings if self.findings else 1.0


def scores_of(file: GoldFile, findings: Sequence[Sequence[Finding]]) -> Scores:
    """One list of findings a review. Opinions without an aspect's words count where the file marks such."""
    scores = Scores()
    for review, found in zip(file.reviews, findings, strict=True):
        _score(scores, review, found, file.names_implicit)
    return scores


def _score(scores: Scores, review: GoldReview, findings: Sequence[Finding], names_implicit: bool) -> None:
    scores.findings += len(findings)
    placed = [(pair, finding.polarity) for finding in findings if (pair := pair_of(review, finding)) is not None]
    scores.grounded += len(placed)
    placed = [(pair, polarity) for pair, polarity in placed if names_implicit or pair[0] is not None]
    # A pair that is found twice is one, with the polarity that was named first.
    polarity_of = dict(reversed(placed))
    pairs = list(polarity_of)
    marked = [(pair.aspect, pair.opinion) for pair in review.pairs]
    scores.exact.add(len(pairs), len(marked), len(matches(pairs, marked, exact)))
    loosely = matches(pairs, marked, lenient)
    scores.lenient.add(len(pairs), len(marked), len(loosely))
    scores.polarity_right += sum(polarity_of[pairs[f]] == review.pairs[m].polarity for f, m in loosely)
    _count(scores.aspects, {aspect for aspect, _ in pairs if aspect}, {aspect for aspect, _ in marked if aspect})
    _count(scores.opinions, {opinion for _, opinion in pairs}, {opinion for _, opinion in marked})


def _count(counted: Counted, found: Collection[Span], marked: Collection[Span]) -> None:
    counted.add(len(found), len(marked), len(set(found) & set(marked)))


def pair_of(review: GoldReview, finding: Finding) -> Pair | None:
    """The finding on the review's words; an opinion in words that the review has not stands where its quote stands.

    None where the quote is not in the text.
    """
    quote = locate(review.text, finding.quote, finding.near)
    if quote is None:
        return None
    aspect, opinion = finding.aspect_at, finding.opinion_at or quote
    return aspect and on_words(aspect, review.words), on_words(opinion, review.words)


def on_words(span: Span, words: Sequence[Span]) -> Span:
    """From the first to the last word that the span touches: people mark whole words."""
    touched = [word for word in words if overlap(word, span)]
    return (touched[0][0], touched[-1][1]) if touched else span


def exact(one: Span | None, other: Span | None) -> bool:
    return one == other


def lenient(one: Span | None, other: Span | None) -> bool:
    """They share a word, or no word names either."""
    if one is None or other is None:
        return one is other
    return overlap(one, other)


def matches(found: Sequence[Pair], marked: Sequence[Pair], same: Same) -> list[tuple[int, int]]:
    """Numbers of found and of marked pairs that are the same: each is in at most one, and they are as many as can be.

    By augmenting paths (Kuhn 1955); a text has a few pairs.
    """
    alike = [[m for m, y in enumerate(marked) if same(x[0], y[0]) and same(x[1], y[1])] for x in found]
    of_marked: dict[int, int] = {}

    def take(f: int, tried: set[int]) -> bool:
        for m in alike[f]:
            if m not in tried:
                tried.add(m)
                if m not in of_marked or take(of_marked[m], tried):
                    of_marked[m] = f
                    return True
        return False

    for f in range(len(found)):
        take(f, set())
    return sorted((f, m) for m, f in of_marked.items())
