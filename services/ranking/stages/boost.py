"""Boost: the rules' factors and offsets in the score itself, so that they count in the whole catalogue."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from services.ranking.facts import Facts
from services.ranking.rules import Boost, Rules
from services.ranking.stages.score import Rows, Scores


class Boosted:
    """Scores times factors, plus offsets (N,). They have no bounds: every row is scored."""

    def __init__(self, scores: Scores, factor: Tensor, offset: Tensor) -> None:
        self._scores, self._factor, self._offset = scores, factor, offset

    def tile(self, rows: Rows) -> Tensor:
        scores, by = self._scores.tile(rows), self._factor[rows]
        return torch.where(scores > 0, scores * by, scores / by).add_(self._offset[rows])


class _Made(NamedTuple):
    rules: Rules
    revision: int
    factor: Tensor  # (N,)
    offset: Tensor


class Boosts:
    """What the rules do to each row, kept until the rules or the catalogue change. In the inference thread only."""

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Facts, _Made] = WeakKeyDictionary()  # of each generation

    def on(self, scores: Scores, facts: Facts, rules: Rules, *, offsets: bool = True) -> Scores:
        """The scores with each raised or lowered; `offsets` False: by factors alone."""
        if not rules.boosts:
            return scores
        made = self._made.get(facts)
        if made is None or made.rules is not rules or made.revision != facts.revision:
            made = self._made[facts] = _make(facts, rules)
        return Boosted(scores, made.factor, made.offset if offsets else torch.zeros_like(made.offset))


def _make(facts: Facts, rules: Rules) -> _Made:
    factor = torch.ones(len(facts), device=facts.available.device)
    offset = torch.zeros_like(factor)
    for boost in rules.boosts:
        rows = torch.tensor(_rows(boost, facts), dtype=torch.int64, device=factor.device)
        factor[rows] *= boost.factor
        offset[rows] += boost.offset
    return _Made(rules, facts.revision, factor, offset)


def _rows(boost: Boost, facts: Facts) -> list[int]:
    if boost.category:
        return list(facts.rows_in([boost.category]))
    row = facts.row_of.get(boost.item)
    return [] if row is None else [row]
