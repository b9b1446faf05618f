"""What nobody outside need see of a review: e-mail addresses and phone numbers, hidden letter by letter.

A hidden text is as long as it was, so a quote from it lies at the same place of the review itself.
"""

import re
from collections.abc import Collection
from typing import Final, Literal

Kind = Literal["addresses", "numbers"]
HIDDEN: Final = "█"
_PATTERNS: Final[dict[Kind, re.Pattern[str]]] = {
    "addresses": re.compile(r"[\w.%+'-]{1,64}\s?@\s?[\w-]{1,63}(?:\.[\w-]{1,63})+"),
    # As people write them: digits in groups, with a country's prefix, brackets, spaces, dots or hyphens.
    "numbers": re.compile(r"(?<![\w.,])\+?(?:\(\d{1,5}\)|\d)(?:[ ./-]{0,2}(?:\(\d{1,5}\)|\d)){6,17}(?!\w)"),
}
_DIGITS: Final = range(7, 16)  # of a number that can be dialled (ITU-T E.164: at most 15)
_DATE: Final = re.compile(r"(?:\d{4}[./-]\d{1,2}[./-]\d{1,2}|\d{1,2}[./-]\d{1,2}[./-]\d{4})")


def redacted(text: str, kinds: Collection[Kind]) -> str:
    """The text with every character of what is named hidden."""
    for kind in _PATTERNS:
        if kind in kinds:
            text = _PATTERNS[kind].sub(_hidden, text)
    return text


def _hidden(found: re.Match[str]) -> str:
    written = found[0]
    is_number = "@" not in written
    if is_number and (_DATE.fullmatch(written) or sum(map(str.isdigit, written)) not in _DIGITS):
        return written
    return "".join(character if character.isspace() else HIDDEN for character in written)
