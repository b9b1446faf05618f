"""Quotes are evidence: each is a real span of the text, or it is dropped."""

import re
from bisect import bisect_right
from itertools import accumulate
from typing import Final

from shared.events import MAX_PAIR_BYTES, MAX_QUOTE_CHARS, utf8_bytes

# What models and keyboards write for one another.
_ALIKE: Final = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "."})
_SPACES: Final = re.compile(r"\s+")
NEAR_CHARS: Final = 400  # a few sentences: as far from its quote as words are looked for


def locate(text: str, quote: str, near: int = -1) -> tuple[int, int] | None:
    """The span [start, end) of code points of `text` that `quote` names, however long.

    As it is written, beginning at `near` if it does so, else at its first occurrence; else with case, white
    space and typographic signs ignored. None where it is not found or is empty.
    """
    quote = quote.strip()
    if not quote:
        return None
    if near >= 0 and text.startswith(quote, near):
        return near, near + len(quote)
    start = text.find(quote)
    if start >= 0:
        return start, start + len(quote)
    return _locate_alike(text, quote)


def _locate_alike(text: str, quote: str) -> tuple[int, int] | None:
    wanted, _ = _normalised(quote)
    have, places = _normalised(text)
    start = have.find(wanted) if wanted else -1
    if start < 0:
        return None
    return places[start], places[start + len(wanted) - 1] + 1


def locate_near(text: str, words: str, quote: tuple[int, int]) -> tuple[int, int] | None:
    """The span of `text` that `words` name in the quote or else nearest to it; they are compared as in `locate`.

    Whole words go first: "fit" is not meant by "benefit". None where they are not within NEAR_CHARS of the quote,
    are empty, or are longer than a quote may be.
    """
    if len(words) > MAX_QUOTE_CHARS or not (wanted := _normalised(words)[0]):
        return None
    at = text.find(said := words.strip(), *quote)
    if at >= 0 and not _cuts_a_word(text, as_it_is := (at, at + len(said))):
        return as_it_is
    first = max(0, quote[0] - NEAR_CHARS)
    have, places = _normalised(text[first : quote[1] + NEAR_CHARS])
    starts = [found.start() for found in re.finditer(f"(?={re.escape(wanted)})", have)]
    spans = [(first + places[start], first + places[start + len(wanted) - 1] + 1) for start in starts]
    return min(spans, key=lambda span: (_cuts_a_word(text, span), _outside(span, quote)), default=None)


def _cuts_a_word(text: str, span: tuple[int, int]) -> bool:
    return any(0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum() for at in span)


def _outside(span: tuple[int, int], quote: tuple[int, int]) -> int:
    """How many characters the span sticks out of the quote, or is away from it."""
    return max(0, quote[0] - span[0], span[1] - quote[1])


def _normalised(text: str) -> tuple[str, list[int]]:
    """The text in small letters with single spaces, and for each of its characters the place it came from."""
    characters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text.translate(_ALIKE)):
        small = " " if character.isspace() else character.casefold()  # one letter may become two
        if small == " " and (not characters or characters[-1] == " "):
            continue
        characters.extend(small)
        places.extend([place] * len(small))
    return "".join(characters).rstrip(" "), places


def shortened(text: str, start: int, end: int, phrase: str) -> int:
    """Where the quote [start, end) ends so that it fits into a pair beside `phrase`: after a word if it can."""
    longest = start + len(_fitting(text[start:end][:MAX_QUOTE_CHARS], MAX_PAIR_BYTES - utf8_bytes(phrase)))
    if end <= longest:
        return end
    cut = text.rfind(" ", start, longest + 1)
    return cut if cut > start else longest


def clean(phrase: str, limit: int) -> str:
    """A phrase in small letters, single-spaced, without control characters, of at most `limit` bytes."""
    printable = "".join(c if c.isprintable() else " " for c in phrase)
    return _fitting(_SPACES.sub(" ", printable).strip().casefold(), limit).rstrip()


def _fitting(text: str, limit: int) -> str:
    """As much of the text as `limit` bytes hold."""
    return text[: bisect_right(list(accumulate(map(utf8_bytes, text))), limit)]
