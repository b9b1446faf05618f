"""Reviews whose opinions people have marked: the files of DMASTE and ASTE-Data-V2.

A line is `text####[([aspect], [opinion], 'POS'), ...]` and, in DMASTE, `####domain`. Words are what single spaces
part. DMASTE (Xu et al. 2023, arXiv 2305.17448) gives the first and the last word of a span, [-1] for an aspect
that no word names; ASTE-Data-V2 (Xu et al. 2020, arXiv 2010.02609) gives every word and has no such aspects.
"""

import ast
import gzip
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from services.extractor.findings import Span

_POLARITY: Final = {"NEG": -1, "NEU": 0, "POS": 1}
_IMPLICIT: Final = -1


@dataclass(frozen=True, slots=True)
class GoldPair:
    aspect: Span | None  # None: the whole thing, or what the opinion alone tells
    opinion: Span
    polarity: int


@dataclass(frozen=True, slots=True)
class GoldReview:
    text: str
    words: tuple[Span, ...]
    pairs: tuple[GoldPair, ...]


@dataclass(frozen=True, slots=True)
class GoldFile:
    name: str
    of: str  # the set that it belongs to: the name of its folder
    reviews: tuple[GoldReview, ...]
    names_implicit: bool  # whether its people marked opinions whose aspect no word names

    @property
    def pairs(self) -> int:
        return sum(len(review.pairs) for review in self.reviews)

    def sample(self, limit: int) -> Self:
        """So many reviews at most, evenly spread over the file; 0: all."""
        number = min(limit or len(self.reviews), len(self.reviews))
        return replace(self, reviews=tuple(self.reviews[at * len(self.reviews) // number] for at in range(number)))


class BadGold(ValueError):
    """A line that is not of the format; says which."""


def read(path: Path) -> GoldFile:
    """Raises OSError, BadGold."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        reviews = tuple(_review(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip())
    implicit = any(pair.aspect is None for review in reviews for pair in review.pairs)
    return GoldFile(path.name.split(".")[0], path.resolve().parent.name, reviews, implicit)


def _review(line: str, where: str) -> GoldReview:
    text, separator, rest = line.rstrip("\n").partition("####")
    words = _words(text)
    try:
        if not separator:
            raise ValueError("it has no ####")
        triplets: list[Any] = ast.literal_eval(rest.partition("####")[0])
        pairs = tuple(_pair(triplet, words) for triplet in triplets)
    except (ValueError, SyntaxError, TypeError, LookupError) as error:
        raise BadGold(f"{where}: {error}") from None
    return GoldReview(text, words, pairs)


def _words(text: str) -> tuple[Span, ...]:
    words = []
    start = 0
    for word in text.split(" "):
        words.append((start, start + len(word)))
        start += len(word) + 1
    return tuple(words)


def _pair(triplet: Any, words: tuple[Span, ...]) -> GoldPair:
    aspect, opinion, polarity = triplet
    judged = None if aspect[0] == _IMPLICIT else _span(aspect, words)
    return GoldPair(judged, _span(opinion, words), _POLARITY[polarity])


def _span(numbers: list[int], words: tuple[Span, ...]) -> Span:
    if min(numbers) < 0:
        raise ValueError("an opinion, or a part of a span, is nowhere")
    return words[min(numbers)][0], words[max(numbers)][1]
