"""How good or bad a word is, from -4 to 4.

VADER's lexicon (Hutto and Gilbert 2014, valences are means of ten raters) and, over it, product.txt: words
that VADER lacks or, rated on social media, means otherwise ("cheap", "works", "flimsy"); a "-" there takes a
word out ("play", "screws").
"""

import importlib.util
from pathlib import Path
from typing import Final

PRODUCT_WORDS: Final = Path(__file__).with_name("product.txt")
_ENDINGS: Final = (
    ("ies", "y"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", ""), ("ed", "e"), ("ing", ""), ("ing", "e"),
    ("er", ""), ("est", ""),
)  # fmt: skip


class LexiconUnavailable(Exception):
    """vaderSentiment is not installed."""


class Lexicon:
    """Valences of words in small letters; forms that are not listed are looked up by their stem."""

    def __init__(self) -> None:
        self._valence: dict[str, float | None] = {**_read(vader_file()), **_read(PRODUCT_WORDS)}
        self._looked_up: dict[str, float | None] = {}

    def __call__(self, word: str) -> float | None:
        """None: no opinion word. 0.0: an opinion word that is neither good nor bad ("thin")."""
        if word not in self._looked_up:
            if len(self._looked_up) > 100_000:  # whatever the stream writes, the memory is bounded
                self._looked_up.clear()
            self._looked_up[word] = self._of(word)
        return self._looked_up[word]

    def _of(self, word: str) -> float | None:
        if word in self._valence:
            return self._valence[word]
        for ending, instead in _ENDINGS:
            stem = word.removesuffix(ending) + instead
            if word.endswith(ending) and len(stem) > 2 and stem in self._valence:
                return self._valence[stem]
        return None


def words() -> list[str]:
    """Every word of the lexicon that is written in letters, in a fixed order."""
    valences = {**_read(vader_file()), **_read(PRODUCT_WORDS)}
    return sorted(word for word, valence in valences.items() if valence is not None and word.isalpha())


def vader_file() -> Path:
    spec = importlib.util.find_spec("vaderSentiment")
    if spec is None or spec.origin is None:
        raise LexiconUnavailable("vaderSentiment is not installed; install the `local` extra")
    return Path(spec.origin).with_name("vader_lexicon.txt")


def _read(path: Path) -> dict[str, float | None]:
    valences: dict[str, float | None] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, rest = line.partition("\t")
        valence = rest.split("\t")[0]
        if valence:
            valences[word] = None if valence == "-" else float(valence)
    return valences
