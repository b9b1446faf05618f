"""Diversify: of a pool of the best, the k that are good and unlike each other, with so many of one category at most.

Only the first `pool_items` places are chosen so, whatever k is, so that a request costs O(pool_items^2 d) at most.
Who asks for neither keeps Select's order as it is, unless a rule has a quota.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from services.ranking.facts import Facts
from services.ranking.generation import Generation
from services.ranking.job import Job, Pick
from services.ranking.requests import Query
from services.ranking.rules import Rules
from shared.models import diversity
from shared.models.contract import ItemTable
from shared.models.diversity import Floats, Limits


def pool_of(query: Query, pool_items: int, rules: Rules) -> int:
    """How many of the best the k are chosen from."""
    return max(query.k, pool_items) if _chooses(query, rules) else query.k


def _chooses(query: Query, rules: Rules) -> bool:
    return bool(rules.quotas) or not query.arrangement.by_score


def diversify(jobs: Sequence[Job], generation: Generation, pool_items: int, rules: Rules) -> None:
    """Each job's picks become those that are shown; `others` are those of the pool that might be shown as well, all
    of them together without breaking a limit.
    """
    for job in jobs:
        if _chooses(job.query, rules):
            limits = limits_of(job, generation.facts, rules)
            chosen = _chosen(job, generation.table, limits, pool_items)
            others = diversity.in_order(len(job.picks), limits) if job.query.arrangement.exploration else []
            job.others = [job.picks[at] for at in others]
            job.picks = [job.picks[at] for at in chosen]


def _chosen(job: Job, table: ItemTable | None, limits: Limits, pool_items: int) -> list[int]:
    arrangement, chosen = job.query.arrangement, list[int]()
    if arrangement.diversity and table:  # without a model no item is known to be like another
        pool = job.picks[:pool_items]
        relevance = diversity.relevance(np.array([pick.score for pick in pool]))
        vectors = vectors_of(pool, table)
        greedy = diversity.greedy(arrangement.diversity_method, relevance, vectors, arrangement.diversity)
        chosen = diversity.choose(greedy, min(job.places, pool_items), limits)
    return chosen + diversity.in_order(job.places - len(chosen), limits)


def vectors_of(picks: Sequence[Pick], table: ItemTable) -> Floats:
    """(P, d): what the model scores by, as directions. One copy from the device, since what follows is sequential."""
    vectors = table.vectors[[pick.row for pick in picks]].float().cpu().numpy()
    return diversity.unit(vectors.astype(np.float64))


def limits_of(job: Job, facts: Facts, rules: Rules) -> Limits:
    """The request's limit on each category that tells items apart, and the rules' quotas. The pinned count too."""
    if not (job.query.arrangement.per_category or rules.quotas):
        return diversity.no_limits(len(job.picks))
    most = _most(job, facts, rules)
    column = {category: at for at, category in enumerate(most)}
    of = [facts.categories(pick.row) for pick in job.picks]
    cells = [(at, column[category]) for at, found in enumerate(of) for category in found if category in column]
    member = np.zeros((len(job.picks), len(column)), np.bool_)
    member[tuple(np.array(cells, np.int64).reshape(-1, 2).T)] = True
    pinned = Counter(category for _, pick in job.pinned for category in facts.categories(pick.row))
    return Limits(member, np.array([count - pinned[category] for category, count in most.items()], np.int64))


def _most(job: Job, facts: Facts, rules: Rules) -> dict[str, int]:
    """How many of a category there may be, for those that any candidate is of and that are limited."""
    quotas = {quota.category: quota.most for quota in rules.quotas}
    per_category = job.query.arrangement.per_category
    most: dict[str, int] = {}
    for category in dict.fromkeys(name for pick in job.picks for name in facts.categories(pick.row)):
        limits = [quotas[category]] if category in quotas else []
        if per_category and facts.tells_apart(category):
            limits.append(per_category)
        if limits:
            most[category] = min(limits)
    return most
