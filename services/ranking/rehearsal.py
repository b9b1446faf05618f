"""A generation's rehearsal: everything that a request would run, once, before any request meets it."""

import time
from typing import Final

import torch

from services.ranking.generation import Generation, Release
from services.ranking.job import Job, Pick
from services.ranking.requests import Query
from services.ranking.stages import score, select
from services.ranking.stages.allowed import Allowed
from services.ranking.stages.scan import scan
from shared.graph.state import InteractionSlot, ItemNode, UserState
from shared.models.attribution import Attributing
from shared.models.finestream import Finestream

HISTORY: Final = 3
BATCHES: Final = (1, 8)
K: Final = 10
TILE_ITEMS: Final = 1 << 14


def compile_loops() -> None:
    """What a finestream runs, compiled: some 15 s where no process of this machine has done so before.

    Later it would hold up those who are ranked meanwhile.
    """
    items = [f"rehearsal:{n}" for n in range(HISTORY)]
    generation = Generation(Release(model=Finestream.made_up(items)))
    generation.put([ItemNode(item) for item in items])
    rehearse(generation)


def rehearse(generation: Generation) -> None:
    """Rank for made-up users. Raises ValueError where the model's answers are not finite, and whatever it raises."""
    model, table = generation.release.model, generation.table
    if model is None or table is None:
        return
    now = time.time()
    met = tuple(
        InteractionSlot(now, f"rehearsal:{i}", item, "click") for i, item in enumerate(table.item_ids[:HISTORY])
    )
    for count in BATCHES:
        jobs = [_job(met) for _ in range(count)]
        users = score.encode(jobs, model, table, now)
        if users.shape != (count, table.vectors.shape[1]) or not torch.isfinite(users).all():
            raise ValueError("the model's users are not finite vectors of the item table's length")
        picks = _select(score.by_model(users, table, generation.codes), generation, count)
        if isinstance(model, Attributing):
            model.moved([job.user for job in jobs], table, [[pick.row for pick in of_job] for of_job in picks])


def _select(scores: score.Scores, generation: Generation, count: int) -> list[list[Pick]]:
    """By every way: the table may outgrow the first, and a loop is compiled when it is first met."""
    allowed = Allowed(generation.facts.available, [set()] * count)
    if isinstance(scores, score.OnCpu):
        scan(scores, allowed, K, TILE_ITEMS)
    scores.tile(slice(0, 1))
    return select.best(scores, allowed, K, TILE_ITEMS)


def _job(met: tuple[InteractionSlot, ...]) -> Job:
    return Job(Query("rehearsal", 1), 0.0, user=UserState("rehearsal", met))
