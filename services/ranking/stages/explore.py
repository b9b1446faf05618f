"""Explore: some places are given to items that would not have been shown, with probabilities that are known exactly.

Each place is given away with the policy's probability, on its own, as long as there is an item to give it to; what
stood there moves down by one. So the best items stay, and the last fall out. Which items:

- epsilon (epsilon-greedy): those of the pool that are not shown, in an order that is uniform over all orders.
- ucb: those of them that few users have met, the highest upper confidence bound first (UCB1: Auer, Cesa-Bianchi &
  Fischer 2002): relevance in [0, 1] + sqrt(2 ln t / n), where n - 1 users met the item and t is the pool's sum of n.

The propensity of an item at a place is its probability there over all that chance might have done, not given what it
did at the places before. The item at a place tells how many places before it were given away (`_Before`), which makes
it a finite sum. The seed is the request's id.
"""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from services.ranking.facts import Facts
from services.ranking.job import EXPLORED, Job, Pick
from shared.models.diversity import Floats, relevance


def explore(jobs: Sequence[Job], facts: Facts, new_item_users: int) -> None:
    """Give places of `picks` to `others`. An item is new as long as fewer than `new_item_users` users have met it."""
    for job in jobs:
        asked = job.query.arrangement
        if not asked.exploration:
            continue
        uniform = asked.exploration_method == "epsilon"
        others = job.others if uniform else by_upper_bound(job.picks, job.others, facts, new_item_users)
        if others:
            numbers = np.random.default_rng(int.from_bytes(job.request_id.encode()))
            job.picks = drawn(job.picks, others, asked.exploration, uniform, numbers)
            job.policy = f"{asked.exploration_method} {asked.exploration:g}"


def by_upper_bound(shown: Sequence[Pick], others: Sequence[Pick], facts: Facts, new_item_users: int) -> list[Pick]:
    """Those of `others` that are new, the highest bound first, the earlier of equals."""
    pool = [*shown, *others]
    met = facts.users[[pick.row for pick in pool]].double().cpu().numpy()  # (P,)
    scores = relevance(np.array([pick.score for pick in pool]))
    bounds = (scores + np.sqrt(2.0 * np.log((met + 1.0).sum()) / (met + 1.0)))[len(shown) :]
    is_new = met[len(shown) :] < new_item_users
    return [others[at] for at in np.argsort(-bounds, kind="stable") if is_new[at]]


def drawn(
    ranked: Sequence[Pick], others: Sequence[Pick], rate: float, uniform: bool, numbers: np.random.Generator
) -> list[Pick]:
    """As many places as `ranked` has; `others` in a uniform order, or in their own."""
    most = min(len(others), len(ranked))
    order = numbers.choice(len(others), most, replace=False) if uniform else np.arange(most)
    before = _Before(most, rate)
    placed: list[Pick] = []
    given = 0
    for place, chance in enumerate(numbers.random(len(ranked))):
        if given < most and chance < rate:
            likely = before.can_give() / len(others) if uniform else before.share[given]
            placed.append(replace(others[order[given]], propensity=_sure(likely * rate), placement=EXPLORED))
            given += 1
        else:
            kept = 1.0 - rate if given < most else 1.0
            placed.append(replace(ranked[place - given], propensity=_sure(before.share[given] * kept)))
        before.step()
    return placed


def _sure(probability: float) -> float:
    return min(1.0, float(probability))  # sums of shares may end a last bit above


class _Before:
    """`share` (most + 1,): the probability that so many of the places before the current one were given away."""

    def __init__(self, most: int, rate: float) -> None:
        self._rate = rate
        self.share: Floats = np.zeros(most + 1)
        self.share[0] = 1.0

    def can_give(self) -> float:
        return float(self.share[:-1].sum())

    def step(self) -> None:
        given = self.share[:-1] * self._rate
        self.share[:-1] -= given
        self.share[1:] += given
