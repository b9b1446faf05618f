"""Which attribute of the space's set an opinion is about."""

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from services.extractor.cache import Cache
from services.extractor.remembered import Remembered
from services.extractor.vectors import Vectors
from shared.space import Floats, Space

# Words for the whole thing; what is said of them, not they, tells the attribute.
WHOLE: Final = frozenset(
    ["product", "products", "item", "items", "thing", "things", "stuff", "unit", "purchase", "purchases", "buy", "one",
     "something", "anything", "everything", "set", "piece", "way", "bit", "lot", "kind", "sort", "time", "brand",
     "model", "version", "gift", "idea", "choice", "option", "review", "reviews"]
)  # fmt: skip
_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def head_of(aspect: str) -> str:
    """The word that the aspect is a kind of, in small letters: "cable" of "patch cable"; empty for the whole thing."""
    words = _WORD.findall(aspect.casefold())
    return words[-1] if words and words[-1] not in WHOLE else ""


class Attributes:
    """Maps (aspect, opinion) to a name of the set: by its terms, else by the likeness of embeddings, else the last."""

    def __init__(self, space: Space, vectors: Vectors, *, similarity: float, cached: int) -> None:
        self._names = frozenset(space.attribute_names)
        self._other = space.attribute_names[-1]
        self._name_of = {term: attribute.name for attribute in space.attributes for term in attribute.terms}
        self._longest = max((len(term.split()) for term in self._name_of), default=1)
        self._vectors = vectors
        self._similarity = similarity
        self._terms: Floats | None = None  # (terms, E), once embedded
        self._alike = Remembered("aspects", Cache[str, str](cached), self._most_alike)

    async def __call__(self, judged: Sequence[tuple[str, str]]) -> list[str]:
        """One attribute name for each (aspect, opinion), both in small letters."""
        named = [self._by_terms(aspect, opinion) for aspect, opinion in judged]
        unnamed = [i for i, name in enumerate(named) if name is None]
        # The head alone: "hosa cable" and "patch cable" are looked up once, as "cable".
        heads = [head_of(judged[i][0]) for i in unnamed]
        alike = iter(await self._alike(heads) if heads else ())
        return [next(alike) if name is None else name for name in named]

    def _by_terms(self, aspect: str, opinion: str) -> str | None:
        """None: only the likeness of the aspect can tell."""
        if aspect in self._names:
            return aspect
        whole = not head_of(aspect)
        name = None if whole else self._term_in(_WORD.findall(aspect))
        name = name or self._term_in(_WORD.findall(opinion))
        return name or (self._other if whole else None)

    def _term_in(self, words: Sequence[str]) -> str | None:
        """The attribute of the longest term, the last of equals: English heads come last."""
        for length in range(min(self._longest, len(words)), 0, -1):
            for start in range(len(words) - length, -1, -1):
                term = " ".join(words[start : start + length])
                name = self._name_of.get(term) or self._name_of.get(term.removesuffix("s"))
                if name:
                    return name
        return None

    async def _most_alike(self, aspects: Sequence[str]) -> list[str]:
        terms = list(self._name_of)
        if not terms:
            return [self._other] * len(aspects)
        if self._terms is None:
            self._terms = await self._vectors.phrases(terms)
        # (aspects, terms). Not `@`: BLAS would wake a thread for every core, and they would spin beside the worker.
        likeness = np.einsum("ae,te->at", await self._vectors.phrases(aspects), self._terms)
        best = likeness.argmax(axis=1)
        enough = likeness[np.arange(len(aspects)), best] >= self._similarity
        return [self._name_of[terms[term]] if alike else self._other for term, alike in zip(best, enough, strict=True)]
