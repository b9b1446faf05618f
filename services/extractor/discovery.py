"""A domain's attributes, proposed from what its reviews judge.

The words that opinions are about are gathered into groups by the likeness of their embeddings (average linkage,
weighted by how often each is used), and a group is named after its commonest word. It is a proposal: the operator
renames, joins and drops, and what the set is not told belongs to "other".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import yaml

from shared.space import Attribute, Floats

OTHER: Final = "other"
MAX_TERMS: Final = 40  # of an attribute
CLUSTERED: Final = 400  # commonest words that are clustered: average linkage takes their cube


class BadAttributes(ValueError):
    """The file is not a set of attributes; says what to change."""


@dataclass(frozen=True, slots=True)
class Proposed:
    """An attribute, its words from the commonest on, and how often they were judged."""

    terms: tuple[str, ...]
    judged: int

    @property
    def name(self) -> str:
        return self.terms[0]


def propose(judged: Counter[str], vectors: Floats, *, attributes: int, likeness: float) -> list[Proposed]:
    """`vectors` (N, E) of unit length belong to `judged.most_common()`; at most `attributes`, commonest first."""
    words = judged.most_common(len(vectors))
    groups = _linked(vectors.astype(np.float64), np.array([count for _, count in words], np.float64), likeness)
    found = [
        Proposed(tuple(words[n][0] for n in sorted(group))[:MAX_TERMS], sum(words[n][1] for n in group))
        for group in groups
    ]
    return sorted(found, key=lambda one: (-one.judged, one.name))[:attributes]


def _linked(vectors: Any, weights: Any, likeness: float) -> list[list[int]]:
    """Numbers of rows in groups: the two most alike are joined until none are as alike as `likeness`."""
    groups = [[n] for n in range(len(vectors))]
    alike = vectors @ vectors.T  # of groups: the weighted mean over their words
    np.fill_diagonal(alike, -np.inf)
    while len(groups) > 1:
        at = int(alike.argmax())
        one, other = sorted(divmod(at, len(groups)))
        if alike[one, other] < likeness:
            break
        share = weights[one] / (weights[one] + weights[other])
        alike[one] = alike[:, one] = share * alike[one] + (1 - share) * alike[other]
        alike[one, one] = -np.inf
        weights[one] += weights[other]
        groups[one] += groups.pop(other)
        alike = np.delete(np.delete(alike, other, 0), other, 1)
        weights = np.delete(weights, other)
    return groups


def written(proposed: Sequence[Proposed], judged: int) -> str:
    """YAML for the operator to edit."""
    lines = [
        '# The attributes of a domain: rename, join and drop. What is said of none of them goes to "other".',
        '# A term is a word, or a few, that reviews use for the attribute, or that tell it ("expensive").',
    ]
    for one in proposed:
        lines.append(f"# {one.judged / max(1, judged):.1%} of what was judged")
        told = yaml.safe_dump([{"name": one.name, "terms": list(one.terms)}], sort_keys=False, allow_unicode=True)
        lines.append(told.rstrip())
    return "\n".join([*lines, ""])


def read(text: str) -> tuple[Attribute, ...]:
    """The operator's file as a space's attributes, with "other" behind them. Raises BadAttributes."""
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadAttributes(f"it is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, list) or not given:
        raise BadAttributes("it is no list of attributes, each with `name` and `terms`")
    attributes = [_attribute(one, number) for number, one in enumerate(given, 1)]
    attributes = [one for one in attributes if one.name != OTHER]
    names = Counter(one.name for one in attributes)
    owners: dict[str, str] = {}
    for name, times in names.items():
        if times > 1:
            raise BadAttributes(f"{name!r} is named {times} times; join its terms")
    for attribute in attributes:
        for term in attribute.terms:
            if owners.setdefault(term, attribute.name) != attribute.name:
                raise BadAttributes(f"the term {term!r} is of {owners[term]!r} and of {attribute.name!r}; choose one")
    return (*attributes, Attribute(OTHER, ()))


def _attribute(given: Any, number: int) -> Attribute:
    where = f"attribute {number}"
    if not isinstance(given, dict) or set(given) - {"name", "terms"}:
        raise BadAttributes(f"{where} has other fields than `name` and `terms`")
    name, terms = given.get("name"), given.get("terms", [])
    if not isinstance(name, str) or not name.strip():
        raise BadAttributes(f"{where} has no name")
    if not isinstance(terms, list) or not all(isinstance(term, str) and term.strip() for term in terms):
        raise BadAttributes(f"the terms of {name!r} are no list of words")
    if name.strip() != OTHER and not terms:
        raise BadAttributes(f"{name!r} has no terms: nothing would be found to be about it")
    return Attribute(_plain(name), tuple(dict.fromkeys(map(_plain, terms))))


def _plain(words: str) -> str:
    return " ".join(words.casefold().split())
