"""Diversify: of a pool of the best, the k that are good and unlike each other, with so many of one category at most.

Only the first `pool_items` places are chosen so, whatever k is, so that a request costs O(pool_items^2 d) at most.
Who asks for neither keeps Select's order as it is.
"""

from collections.abc import Sequence

import numpy as np

from services.ranking.facts import Facts
from services.ranking.generation import Generation
from services.ranking.job import Job, Pick
from services.ranking.requests import Query
from shared.models import diversity
from shared.models.contract import ItemTable
from shared.models.diversity import Floats, Limits


def pool_of(query: Query, pool_items: int) -> int:
    """How many of the best the k are chosen from."""
    return query.k if query.arrangement.by_score else max(query.k, pool_items)


def diversify(jobs: Sequence[Job], generation: Generation, pool_items: int) -> None:
    """Each job's picks become those that are shown; `others` are those of the pool that might be shown as well, all
    of them together without breaking a limit.
    """
    for job in jobs:
        if not job.query.arrangement.by_score:
            limits = limits_of(job.picks, generation.facts, job.query.arrangement.per_category)
            chosen = _chosen(job, generation.table, limits, pool_items)
            job.others = [job.picks[at] for at in _others(limits)] if job.query.arrangement.exploration else []
            job.picks = [job.picks[at] for at in chosen]


def _chosen(job: Job, table: ItemTable | None, limits: Limits, pool_items: int) -> list[int]:
    arrangement, k = job.query.arrangement, job.query.k
    pool = job.picks[:pool_items]
    strength = arrangement.diversity if table else 0.0  # without a model no item is known to be like another
    relevance = diversity.relevance(np.array([pick.score for pick in pool]))
    vectors = vectors_of(pool, table) if table and strength else np.zeros((len(pool), 0))
    greedy = diversity.greedy(arrangement.diversity_method, relevance, vectors, strength)
    chosen = diversity.choose(greedy, min(k, pool_items), limits)
    for at in range(pool_items, len(job.picks)):
        if len(chosen) < k and limits.open[at]:
            limits.take(at)
            chosen.append(at)
    return chosen


def _others(limits: Limits) -> list[int]:
    """What can be taken on top of what was, the best first."""
    found = []
    for at in range(len(limits.open)):
        if limits.open[at]:
            limits.take(at)
            found.append(at)
    return found


def vectors_of(picks: Sequence[Pick], table: ItemTable) -> Floats:
    """(P, d): what the model scores by, as directions. One copy from the device, since what follows is sequential."""
    vectors = table.vectors[[pick.row for pick in picks]].float().cpu().numpy()
    return diversity.unit(vectors.astype(np.float64))


def limits_of(picks: Sequence[Pick], facts: Facts, per_category: int) -> Limits:
    """At most `per_category` of each category that tells items apart; 0: no limit."""
    if not per_category:
        return diversity.no_limits(len(picks))
    found = [facts.categories(pick.row) for pick in picks]
    column = {name: at for at, name in enumerate(dict.fromkeys(name for names in found for name in names))}
    member = np.zeros((len(picks), len(column)), np.bool_)
    for at, names in enumerate(found):
        member[at, [column[name] for name in names]] = True
    return Limits(member, np.full(len(column), per_category))
