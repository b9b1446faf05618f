"""Where sentences begin and end."""

import re
from collections.abc import Iterator
from typing import Final

MAX_SENTENCE_CHARS: Final = 500
_END: Final = re.compile(r"(?<=[.!?])\s+|\n+")


def sentences_of(text: str) -> Iterator[tuple[int, int]]:
    """Spans of sentences by their punctuation; a run without any is cut at MAX_SENTENCE_CHARS."""
    start = 0
    for gap in [*_END.finditer(text), None]:
        end = gap.start() if gap else len(text)
        while end - start > MAX_SENTENCE_CHARS:
            cut = text.rfind(" ", start + 1, start + MAX_SENTENCE_CHARS)
            cut = cut if cut > start else start + MAX_SENTENCE_CHARS
            yield start, cut
            start = cut
        if text[start:end].strip():
            yield start, end
        start = gap.end() if gap else end
