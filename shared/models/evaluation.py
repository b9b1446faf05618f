"""Evaluation: one function for every model and baseline.

Protocol: global time split, prequential (a case's history is what is strictly earlier, in the test period too),
full ranking over the items known before the split, items of the history masked. A target that was not known
before the split counts as a miss. Items that tie with the target are counted in expectation: the metric is the
mean over all orders of the tied. Users without any history before the split are not asked.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from shared.graph.state import UserState
from shared.models.contract import ItemTable, Servable, score
from shared.models.dataset import Case

CUTOFFS: Final = (10, 20)
HEAD_SHARE: Final = 0.2  # of the items, by training count
BATCH: Final = 256

Scorer = Callable[[Sequence[Case]], Tensor]  # cases (B,) -> scores (B, N) over the catalogue's rows
Metrics = dict[str, float]


@dataclass(frozen=True)
class Result:
    """Figures are means over targets; `targets` says over how many."""

    overall: Metrics
    head_items: Metrics
    tail_items: Metrics
    per_target: dict[str, list[float]]  # for paired comparison: the same targets in the same order for any model

    def __getitem__(self, name: str) -> float:
        return self.overall[name]


def evaluate(scorer: Scorer, cases: Sequence[Case], row_of: dict[str, int], counts: Sequence[float]) -> Result:
    """Rank the whole catalogue for every case. `counts` (N,): training counts, which part head from tail."""
    totals: dict[str, list[float]] = {name: [] for name in _names()}
    rows: list[int] = []
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        scores = scorer(batch).detach().float().cpu()
        for case, row_scores in zip(batch, mask_seen(scores, batch, row_of), strict=True):
            for target in case.targets:
                row = row_of.get(target, -1)
                rows.append(row)
                for name, value in _of_target(row_scores, row).items():
                    totals[name].append(value)
    head = _head(counts)
    return Result(
        _mean(totals, [True] * len(rows)),
        _mean(totals, [row in head for row in rows]),
        _mean(totals, [row not in head for row in rows]),
        totals,
    )


def servable(model: Servable, table: ItemTable) -> Scorer:
    """A servable model over a fixed item table, asked at the time of the batch's first case."""
    return lambda cases: score(model.encode_users([c.user for c in cases], table, cases[0].ts), table)


def offline(score_users: Callable[[Sequence[UserState]], Tensor]) -> Scorer:
    """A baseline that only ranks offline."""
    return lambda cases: score_users([case.user for case in cases])


def with_history(cases: Sequence[Case], split: float) -> list[Case]:
    """Cases of users who were met before the split."""
    known: set[str] = set()
    for case in cases:
        oldest = case.user.interactions[-1].ts if case.user.interactions else math.inf
        if oldest < split:
            known.add(case.user.user_id)
    return [case for case in cases if case.user.user_id in known]


def mask_seen(scores: Tensor, cases: Sequence[Case], row_of: dict[str, int]) -> Tensor:
    """Scores (B, N) with the items of each history at -inf."""
    at = [
        (b, row_of[slot.item_id])
        for b, case in enumerate(cases)
        for slot in case.user.interactions
        if slot.item_id in row_of
    ]
    if at:
        b, n = torch.tensor(at, device=scores.device).unbind(1)
        scores = scores.index_put((b, n), torch.tensor(-torch.inf, device=scores.device))
    return scores


def ranking_metrics(above: int, ties: int) -> Metrics:
    """Of a target that `above` items outscore and that `ties` items (itself among them) share the score of.

    Its rank is uniform over above + 1 .. above + ties; every figure is the mean over these.
    """
    ranks = range(above + 1, above + ties + 1)
    out = {"mrr": sum(1.0 / rank for rank in ranks) / ties}
    for k in CUTOFFS:
        hits = [rank for rank in ranks if rank <= k]
        out[f"hr@{k}"] = len(hits) / ties
        out[f"ndcg@{k}"] = sum(1.0 / math.log2(rank + 1) for rank in hits) / ties
    return out


def _of_target(scores: Tensor, row: int) -> Metrics:
    if row < 0 or scores[row] == -torch.inf:
        return dict.fromkeys(_names(), 0.0)
    mine = scores[row]
    return ranking_metrics(int((scores > mine).sum()), int((scores == mine).sum()))


def _names() -> list[str]:
    return ["mrr", *(f"{name}@{k}" for k in CUTOFFS for name in ("hr", "ndcg"))]


def _head(counts: Sequence[float]) -> set[int]:
    by_count = sorted(range(len(counts)), key=lambda row: (-counts[row], row))
    return set(by_count[: max(1, round(HEAD_SHARE * len(counts)))])


def _mean(totals: dict[str, list[float]], kept: Sequence[bool]) -> Metrics:
    n = sum(kept)
    means = {
        name: sum(value for value, keep in zip(values, kept, strict=True) if keep) / n if n else 0.0
        for name, values in totals.items()
    }
    return {**means, "targets": float(n)}
