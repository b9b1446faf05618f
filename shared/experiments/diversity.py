"""What diversity costs and gives: one fitted model, its lists of 10 diversified as ranking does it, over the strengths.

Each case's `pool` best items (the history masked) are what both methods of shared.models.diversity choose from.
Measured is what finds the targets (NDCG@10, HR@10), how unlike the items of a list are (Smyth & McClave 2001: the mean
of 1 - cosine over pairs), by the vectors that the model scores with and by the items' texts, which no method looks at,
and the share of the catalogue that some list holds.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from msgspec import Struct

from shared.experiments import job, live, tasks
from shared.experiments.config import Experiment
from shared.experiments.statistics import Comparison, compare
from shared.experiments.tasks import Task
from shared.models import diversity
from shared.models.diversity import Floats, Ints, Method
from shared.models.evaluation import BATCH, LISTED, mask_seen, servable
from shared.models.fitting import Run
from shared.models.registry import MODELS

METHODS: Final[tuple[Method, ...]] = ("mmr", "dpp")
STRENGTHS: Final = tuple(tenth / 10 for tenth in range(11))


class Row(Struct):
    """One method at one strength. Differences are to strength 0, with the 95 % interval over users."""

    method: str
    strength: float
    ndcg: float
    difference: float
    low: float
    high: float
    hr: float
    unlike: float  # intra-list diversity by the model's vectors
    unlike_text: float | None  # by the items' texts; None where there are none
    coverage: float


class Measured(Struct):
    """What is kept of one fit."""

    experiment: str
    title: str
    model: str
    seed: int
    pool: int
    targets: int
    date: str
    machine: str
    rows: list[Row]


@dataclass(frozen=True)
class Pools:
    """What the lists are chosen from: a pool a case, the best first, and where its targets are."""

    rows: list[Ints]  # (P,) of the table
    relevance: list[Floats]  # (P,)
    targets: list[list[int]]  # rows of the table; -1 for an item that is in none
    users: list[str]  # whose case it is
    vectors: Floats  # (N, d), of length 1
    texts: Floats  # (N, E), of length 1, or 0 where nothing is known

    @cached_property
    def user_of_target(self) -> list[str]:
        return [user for user, targets in zip(self.users, self.targets, strict=True) for _ in targets]


def measured(experiment: Experiment, label: str, seed: int, pool: int, device: str, tell: job.Tell) -> Measured:
    """Fit the row of that label as `finestream evaluate` does, and diversify its lists.

    Raises what tasks.load does, and ValueError for a label there is none of or a model that cannot be served.
    """
    row = next((row for row in experiment.rows if row.label == label), None)
    if row is None:
        raise ValueError(f"there is no model {label!r}; there are {', '.join(row.label for row in experiment.rows)}")
    if not MODELS[row.kind].servable:
        raise ValueError(f"{label!r} has no item vectors, so its lists cannot be diversified; name another --model")
    task = tasks.load(experiment.spec_of(row))
    with TemporaryDirectory() as folder:
        run = Run(seed, device, checkpoint=Path(folder))
        fitted, _, _ = job.fit(task, row.kind, row.config(task.test.schema), run, tell)
    assert live.is_servable(fitted.model)
    tell({"stage": "diversifying"})
    found = pools_of(task, fitted.model, pool)
    return Measured(
        experiment.name, experiment.title, label, seed, pool, len(found.user_of_target),
        time.strftime("%Y-%m-%d", time.gmtime()), job.machine(device), measure(found),
    )  # fmt: skip


def pools_of(task: Task, model: Any, pool: int) -> Pools:
    """Ask a servable model once. Raises ValueError where a score is not a number."""
    split = task.test
    table = model.encode_items(split.items)
    ask = servable(model, table)
    rows: list[Ints] = []
    relevance: list[Floats] = []
    for start in range(0, len(task.cases), BATCH):
        batch = task.cases[start : start + BATCH]
        scores = ask(batch).detach().float().cpu()
        if bool(scores.isnan().any()):
            raise ValueError("a score is not a number")
        if not split.repeats:
            scores = mask_seen(scores, batch, split.row_of)
        ordered = scores.sort(stable=True, dim=1, descending=True)  # of equals the lower row, as ranking has it
        for values, at in zip(ordered.values[:, :pool].numpy(), ordered.indices[:, :pool].numpy(), strict=True):
            able = values > -np.inf
            rows.append(at[able])
            relevance.append(diversity.relevance(values[able].astype(np.float64)))
    return Pools(
        rows, relevance, [[split.row_of.get(target, -1) for target in case.targets] for case in task.cases],
        [case.user.user_id for case in task.cases],
        diversity.unit(table.vectors.double().cpu().numpy()), split.content.double().numpy(),
    )  # fmt: skip


def measure(pools: Pools, strengths: Sequence[float] = STRENGTHS, methods: Sequence[Method] = METHODS) -> list[Row]:
    """A row for no diversity, which all are compared with, then one a method and strength above 0."""
    asked = [(method, strength) for method in methods for strength in strengths if strength > 0]
    lists = [_lists(pools, "mmr", 0.0), *(_lists(pools, method, strength) for method, strength in asked)]
    gains = [_gains(pools, one) for one in lists]
    compared = compare({str(at): gain for at, gain in enumerate(gains)}, gains[0], pools.user_of_target)
    named = [("none", 0.0), *asked]
    return [_row(pools, *named[at], lists[at], gains[at], compared[str(at)]) for at in range(len(named))]


def _lists(pools: Pools, method: Method, strength: float) -> list[Ints]:
    """Rows of the table, (<= LISTED,) a case."""
    found = []
    for rows, relevance in zip(pools.rows, pools.relevance, strict=True):
        greedy = diversity.greedy(method, relevance, pools.vectors[rows], strength)
        found.append(rows[diversity.choose(greedy, LISTED, diversity.no_limits(len(rows)))])
    return found


def _gains(pools: Pools, lists: Sequence[Ints]) -> Floats:
    """NDCG@10 of each target (T,): 1 / log2(1 + its rank), 0 where it is not listed."""
    gains = [
        1.0 / np.log2(2.0 + at[0]) if len(at := np.flatnonzero(rows == target)) else 0.0
        for rows, targets in zip(lists, pools.targets, strict=True)
        for target in targets
    ]
    return np.array(gains)


def _row(pools: Pools, method: str, strength: float, lists: Sequence[Ints], gains: Floats, compared: Comparison) -> Row:
    listed = np.unique(np.concatenate([np.zeros(0, np.int64), *lists]))
    return Row(
        method, strength,
        ndcg=float(gains.mean()), difference=compared.difference, low=compared.low, high=compared.high,
        hr=float((gains > 0).mean()),
        unlike=_mean_unlikeness(pools.vectors, lists),
        unlike_text=_mean_unlikeness(pools.texts, lists) if pools.texts.any() else None,
        coverage=len(listed) / len(pools.vectors),
    )  # fmt: skip


def _mean_unlikeness(vectors: Floats, lists: Sequence[Ints]) -> float:
    return float(np.mean([diversity.unlikeness(vectors[rows]) for rows in lists]))
