"""Boost: the rules' factors and offsets in the score itself, so that they count in the whole catalogue."""

import torch
from torch import Tensor

from services.ranking.facts import Facts
from services.ranking.rules import NO_RULES, Boost, Rules
from services.ranking.stages.score import Rows, Scores


class Boosted:
    """Scores times factors, plus offsets (N,). They have no bounds: every row is scored."""

    def __init__(self, scores: Scores, factor: Tensor, offset: Tensor) -> None:
        self._scores, self._factor, self._offset = scores, factor, offset

    def tile(self, rows: Rows) -> Tensor:
        scores, by = self._scores.tile(rows), self._factor[rows]
        return torch.where(scores > 0, scores * by, scores / by).add_(self._offset[rows])


class Boosts:
    """What the rules do to each row, kept until the rules or the catalogue change. In the inference thread only."""

    def __init__(self) -> None:
        self._made_of: tuple[Rules, Facts | None, int] = (NO_RULES, None, 0)
        self._factor = torch.ones(0)  # (N,)
        self._offset = torch.zeros(0)

    def on(self, scores: Scores, facts: Facts, rules: Rules, *, offsets: bool = True) -> Scores:
        """The scores with each raised or lowered; `offsets` False: by factors alone."""
        if not rules.boosts:
            return scores
        self._look(facts, rules)
        return Boosted(scores, self._factor, self._offset if offsets else torch.zeros_like(self._offset))

    def _look(self, facts: Facts, rules: Rules) -> None:
        made_of = (rules, facts, facts.revision)
        if self._made_of[0] is rules and self._made_of[1:] == made_of[1:]:
            return
        self._factor = torch.ones(len(facts), device=facts.available.device)
        self._offset = torch.zeros_like(self._factor)
        for boost in rules.boosts:
            rows = torch.tensor(_rows(boost, facts), dtype=torch.int64, device=self._factor.device)
            self._factor[rows] *= boost.factor
            self._offset[rows] += boost.offset
        self._made_of = made_of


def _rows(boost: Boost, facts: Facts) -> list[int]:
    if boost.category:
        return list(facts.rows_in([boost.category]))
    row = facts.row_of.get(boost.item)
    return [] if row is None else [row]
