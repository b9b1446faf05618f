"""What nobody outside need see of a review: e-mail addresses, phone numbers and names, hidden letter by letter.

A hidden text is as long as it was, so a quote from it lies at the same place of the review itself.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any, Final, Literal

from services.extractor.spacy_pipeline import pipeline
from services.extractor.worker import Worker
from shared.embedding import encodable

Kind = Literal["addresses", "numbers", "names"]
HIDDEN: Final = "█"
_PATTERNS: Final[dict[Kind, re.Pattern[str]]] = {
    "addresses": re.compile(r"[\w.%+'-]{1,64}\s?@\s?[\w-]{1,63}(?:\.[\w-]{1,63})+"),
    # As people write them: digits in groups, with a country's prefix, brackets, spaces, dots or hyphens.
    "numbers": re.compile(r"(?<![\w.,])\+?(?:\(\d{1,5}\)|\d)(?:[ ./-]{0,2}(?:\(\d{1,5}\)|\d)){6,17}(?!\w)"),
}
_DIGITS: Final = range(7, 16)  # of a number that can be dialled (ITU-T E.164: at most 15)
_DATE: Final = re.compile(r"(?:\d{4}[./-]\d{1,2}[./-]\d{1,2}|\d{1,2}[./-]\d{1,2}[./-]\d{4})")


class Redaction:
    """Hides what is of these kinds. Names are those that a spaCy pipeline takes for people: it errs both ways."""

    def __init__(self, kinds: Collection[Kind], worker: Worker, spacy_model: str = "") -> None:
        """Raises ModelUnavailable where names are to be hidden and nothing finds them."""
        self._kinds = kinds
        self._worker = worker
        self._nlp = pipeline(spacy_model, ("ner",)) if "names" in kinds else None

    async def __call__(self, texts: Sequence[str]) -> list[str]:
        """Each text as it may leave."""
        shown = [redacted(text, self._kinds) for text in texts]
        return shown if self._nlp is None else await self._worker.run(_without_names, self._nlp, shown)


def _without_names(nlp: Any, texts: Sequence[str]) -> list[str]:
    docs = nlp.pipe(map(encodable, texts))
    return [_without_people(text, doc) for text, doc in zip(texts, docs, strict=True)]


def _without_people(text: str, doc: Any) -> str:
    for person in doc.ents:
        if person.label_ == "PERSON":
            start, end = person.start_char, person.end_char
            text = text[:start] + _covered(text[start:end]) + text[end:]
    return text


def redacted(text: str, kinds: Collection[Kind]) -> str:
    """The text with addresses and numbers hidden, where they are among the kinds."""
    for kind in _PATTERNS:
        if kind in kinds:
            text = _PATTERNS[kind].sub(_hidden, text)
    return text


def _hidden(found: re.Match[str]) -> str:
    written = found[0]
    is_number = "@" not in written
    if is_number and (_DATE.fullmatch(written) or sum(map(str.isdigit, written)) not in _DIGITS):
        return written
    return _covered(written)


def _covered(written: str) -> str:
    return "".join(character if character.isspace() else HIDDEN for character in written)
