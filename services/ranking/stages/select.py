"""Select: the k best rows of each request. Equal scores: the lower row first."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from services.ranking.facts import FEW, both
from services.ranking.job import Job, Pick
from services.ranking.stages.allowed import Allowed
from services.ranking.stages.running import Running
from services.ranking.stages.scan import SMALL, in_full, scan
from services.ranking.stages.score import Bounded, OnCpu, Scores
from services.ranking.stages.shortlist import fits, shortlist

ScoresOf = Callable[[list[int]], Scores]  # which of the jobs -> their scores


def fill(jobs: Sequence[Job], scores_of: ScoresOf, available: Tensor, tile_items: int) -> None:
    """Each job's picks: those that rank much of the catalogue together, the others each over its own rows."""
    few = [job.rows is not None and FEW * len(job.rows) < len(available) for job in jobs]
    together = [at for at, alone in enumerate(few) if not alone]
    if together:
        k = max(jobs[at].wanted for at in together)
        only = [_mask(jobs[at], available) for at in together]
        allowed = Allowed(available, [jobs[at].banned for at in together], only)
        for at, picks in zip(together, best(scores_of(together), allowed, k, tile_items), strict=True):
            jobs[at].picks = picks[: jobs[at].wanted]
    for at, job in enumerate(jobs):
        if few[at] and job.rows is not None:
            job.picks = best_of(scores_of([at]), both(available, job.within), job.rows, job.wanted, tile_items)


def best(scores: Scores, allowed: Allowed, k: int, tile_items: int) -> list[list[Pick]]:
    """Of all rows, each request's k best that it is allowed; fewer where fewer are."""
    if isinstance(scores, OnCpu) and fits(scores, allowed):
        return shortlist(scores, allowed, k)
    if isinstance(scores, Bounded) and allowed.device.type == "cpu" and allowed.rows > 2 * SMALL:
        return scan(scores, allowed, k, tile_items).picks()
    found = Running(len(allowed), k, allowed.device)
    in_full(found, scores, allowed, slice(0, allowed.rows), tile_items)
    return found.picks()


def best_of(scores: Scores, available: Tensor, rows: set[int], k: int, tile_items: int) -> list[Pick]:
    """Of the given rows, one request's k best that are available."""
    found = Running(1, k, available.device)
    for some in torch.tensor(sorted(rows), dtype=torch.int64, device=available.device).split(tile_items):
        shown = some[available[some]]
        if len(shown):
            found.offer(scores.tile(shown), shown)
    return found.picks()[0]


def _mask(job: Job, like: Tensor) -> Tensor | None:
    """(N,) bool: of the job's rows what is within; None for all."""
    if job.rows is None:
        return job.within
    rows = torch.tensor(list(job.rows), dtype=torch.int64, device=like.device)
    return both(torch.zeros_like(like).index_fill_(0, rows, True), job.within)
