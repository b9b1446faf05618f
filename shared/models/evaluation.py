"""Evaluation: one function for every model and baseline.

Protocol: global time split, prequential (a case's history is what is strictly earlier, in the test period too),
full ranking over the items known before the split, items of the history masked. A target that was not known
before the split counts as a miss. Items that tie with the target are counted in expectation: the metric is the
mean over all orders of the tied. Users without any history before the split are not asked.

`rank` gives the figures of each target, and takes the two protocols of papers that differ: items of the history may
be targets (`repeats`: nothing is masked), and a target may be ranked among a few given items only (`negatives`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.graph.state import UserState
from shared.models.contract import ItemTable, Servable, score
from shared.models.dataset import Case

CUTOFFS: Final = (10, 20)
HEAD_SHARE: Final = 0.2  # of the items, by training count
BATCH: Final = 256

LISTED: Final = 10  # items of a list, for coverage and Gini

Scorer = Callable[[Sequence[Case]], Tensor]  # cases (B,) -> scores (B, N) over the catalogue's rows
Metrics = dict[str, float]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """T targets in the order of the cases, and within a case in its own; any model has the same in the same order."""

    case: Ints  # (T,) which case asked
    row: Ints  # (T,) the target's row of the catalogue, -1 where it has none
    figures: dict[str, Floats]  # metric -> (T,)
    coverage: float  # share of the catalogue that some list of 10 holds, in expectation over the orders of the tied
    gini: float  # of how often each item of the catalogue is listed: 0 all alike, towards 1 always the same few


@dataclass(frozen=True)
class Result:
    """Figures are means over targets; `targets` says over how many."""

    overall: Metrics
    head_items: Metrics
    tail_items: Metrics
    per_target: dict[str, list[float]]  # for paired comparison: the same targets in the same order for any model

    def __getitem__(self, name: str) -> float:
        return self.overall[name]


def evaluate(
    scorer: Scorer, cases: Sequence[Case], row_of: dict[str, int], counts: Sequence[float], *, repeats: bool = False
) -> Result:
    """Rank the whole catalogue for every case. `counts` (N,): training counts, which part head from tail."""
    ranking = rank(scorer, cases, row_of, repeats=repeats, lists=False)
    known = ranking.row >= 0
    head = np.zeros(len(known), np.bool_)
    head[known] = head_items(counts)[ranking.row[known]]
    return Result(
        _mean(ranking.figures, np.ones(len(known), np.bool_)),
        _mean(ranking.figures, head),
        _mean(ranking.figures, ~head),
        {name: values.tolist() for name, values in ranking.figures.items()},
    )


def rank(
    scorer: Scorer,
    cases: Sequence[Case],
    row_of: dict[str, int],
    *,
    repeats: bool = False,
    negatives: Sequence[Sequence[int]] | None = None,
    lists: bool = True,
) -> Ranking:
    """Figures of every target. `repeats`: items of the history stay in. `negatives`: for each target, in order, the
    rows that it is ranked among; without them the whole catalogue. `lists`: look at what is listed too, or coverage
    and Gini are NaN.

    Raises ValueError for a score that is no number: it would compare with nothing, and so win.
    """
    found: list[tuple[int, int]] = []
    placed: list[tuple[Ints, Ints]] = []
    listed, missed = np.zeros(len(row_of)), np.zeros(len(row_of))
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        scores = scorer(batch).detach().float().cpu()
        if bool(scores.isnan().any()):
            raise ValueError("a score is not a number")
        if not repeats:
            scores = mask_seen(scores, batch, row_of)
        asked = [(b, row_of.get(target, -1)) for b, case in enumerate(batch) for target in case.targets]
        found += [(start + b, row) for b, row in asked]
        among = None if negatives is None else negatives[len(found) - len(asked) : len(found)]
        placed.append(_places(scores, asked, among))
        if lists:
            share = _listed(scores)
            listed += share.sum(0)
            with np.errstate(divide="ignore"):  # log 0: an item that is listed for sure
                missed += np.log1p(-share).sum(0)
    case, row = np.array(found, np.int64).reshape(-1, 2).T
    none = np.zeros(0, np.int64)
    above = np.concatenate([none, *(of_batch[0] for of_batch in placed)])
    ties = np.concatenate([none, *(of_batch[1] for of_batch in placed)])
    figures = _figures(above, ties)
    if not lists or not listed.any():
        return Ranking(case, row, figures, math.nan, math.nan)
    return Ranking(case, row, figures, float((1 - np.exp(missed)).mean()), gini(listed))


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
    figures = _figures(np.array([above]), np.array([ties]))
    return {name: float(values[0]) for name, values in figures.items()}


def head_items(counts: Sequence[float]) -> NDArray[np.bool_]:
    """(N,) which items are head: the most met `HEAD_SHARE` of the catalogue, the first rows of equals."""
    by_count = sorted(range(len(counts)), key=lambda row: (-counts[row], row))
    head = np.zeros(len(counts), np.bool_)
    head[by_count[: max(1, round(HEAD_SHARE * len(counts)))]] = True
    return head


def gini(times: Floats) -> float:
    """Of how often each of N items is listed (N,): sum_i (2i - N - 1) x_i / (N sum x), x ascending, i from 1."""
    n, total = len(times), float(times.sum())
    if not total:
        return 0.0
    return float(((2 * np.arange(1, n + 1) - n - 1) * np.sort(times)).sum() / (n * total))


def _places(
    scores: Tensor, asked: Sequence[tuple[int, int]], among: Sequence[Sequence[int]] | None
) -> tuple[Ints, Ints]:
    """Scores (B, N) and targets (case of the batch, row) -> how many outscore each (T,), and how many tie (T,).

    A target that cannot be listed (unknown, or met before and so masked) has no ties: 0, a miss.
    """
    b, row = torch.tensor(asked, dtype=torch.int64).reshape(-1, 2).unbind(1)
    if not scores.shape[1]:
        return np.zeros(len(b), np.int64), np.zeros(len(b), np.int64)
    mine = scores[b, row.clamp(min=0)][:, None]  # (T, 1)
    if among is None:
        others = scores[b]  # (T, N)
        above, ties = (others > mine).sum(1), (others == mine).sum(1)
    else:
        wide = max([1, *(len(rows) for rows in among)])
        at = torch.tensor([[*rows, *[-1] * (wide - len(rows))] for rows in among], dtype=torch.int64).reshape(-1, wide)
        rivals = scores[b[:, None], at.clamp(min=0)]  # (T, W)
        real = (at >= 0) & (at != row[:, None])
        above, ties = ((rivals > mine) & real).sum(1), ((rivals == mine) & real).sum(1) + 1
    possible = (row >= 0) & (mine[:, 0] > -torch.inf)
    return above.numpy(), (ties * possible).numpy()


def _listed(scores: Tensor) -> Floats:
    """(B, N) -> (B, N): how surely each item is among the first `LISTED`; the tied on the border share its places."""
    k = min(LISTED, scores.shape[1])
    if not k:
        return np.zeros(tuple(scores.shape))
    border = scores.topk(k).values[:, -1:]  # (B, 1)
    above, tied = scores > border, (scores == border) & (border > -torch.inf)
    left = (k - above.sum(1, keepdim=True)) / tied.sum(1, keepdim=True).clamp(min=1)
    share: Floats = torch.where(above, 1.0, tied * left).double().numpy()
    return share


def _figures(above: Ints, ties: Ints) -> dict[str, Floats]:
    """Figures (T,) by name, as `ranking_metrics`, where 0 ties are a miss. Sums over ranks are differences of two."""
    first, last, n = above, above + ties, np.maximum(ties, 1)
    ranks = np.arange(1, max(1, int(last.max(initial=0))) + 1)
    out = {"mrr": _between(1.0 / ranks, first, last) / n}
    gains = 1.0 / np.log2(np.arange(2, max(CUTOFFS) + 2))
    for k in CUTOFFS:
        out[f"hr@{k}"] = (np.minimum(last, k) - np.minimum(first, k)) / n
        out[f"ndcg@{k}"] = _between(gains[:k], np.minimum(first, k), np.minimum(last, k)) / n
    return out


def _between(values: Floats, first: Ints, last: Ints) -> Floats:
    """Sums (T,) of values[first:last]; of one value it is that value to the last bit."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    alone = values[np.minimum(first, len(values) - 1)]
    between: Floats = np.where(last - first == 1, alone, sums[last] - sums[first])
    return between


def _mean(figures: dict[str, Floats], kept: NDArray[np.bool_]) -> Metrics:
    n = int(kept.sum())
    means = {name: float(values[kept].mean()) if n else 0.0 for name, values in figures.items()}
    return {**means, "targets": float(n)}
