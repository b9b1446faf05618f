"""services/ranking/stages/explore.py: the propensities are the policy's own, so that what it shows can be learnt from."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.ranking.facts import Facts
from services.ranking.job import Job, Pick
from services.ranking.requests import Arrangement, ExplorationMethod, Query
from services.ranking.stages.explore import drawn, explore
from shared.pb.finestream.v1 import ranking_pb2
from tests.services.ranking.conftest import World, stocked
from tests.services.ranking.doubles import item_of

EXPLORED = ranking_pb2.PLACEMENT_EXPLORED
Table = Mapping[tuple[int, int], float]  # (row, place) -> probability


def by_enumeration(ranked: int, others: int, rate: float, uniform: bool) -> Table:
    """What the policy shows where, over everything that chance can do. Rows: the ranked from 0, then the others."""
    table: dict[tuple[int, int], float] = defaultdict(float)
    rows = range(ranked, ranked + others)
    orders = list(itertools.permutations(rows)) if uniform else [tuple(rows)]
    for coins in itertools.product((True, False), repeat=ranked):
        for order in orders:
            weight, given = 1.0 / len(orders), 0
            shown = []
            for place, coin in enumerate(coins):
                weight *= rate if coin else 1.0 - rate
                if coin and given < others:
                    shown.append(order[given])
                    given += 1
                else:
                    shown.append(place - given)
            for place, row in enumerate(shown):
                table[row, place] += weight
    return table


@pytest.mark.parametrize("uniform", [True, False], ids=["epsilon", "ucb"])
@pytest.mark.parametrize(("ranked", "others"), [(1, 1), (4, 4), (5, 2), (3, 5)])
@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_a_propensity_is_the_probability_over_all_that_chance_can_do(
    ranked: int, others: int, rate: float, uniform: bool
) -> None:
    table = by_enumeration(ranked, others, rate, uniform)
    pool = [Pick(row, 0.0) for row in range(ranked + others)]
    seen = set()
    for seed in range(300):
        shown = drawn(pool[:ranked], pool[ranked:], rate, uniform, np.random.default_rng(seed))
        assert len({pick.row for pick in shown}) == ranked
        for place, pick in enumerate(shown):
            assert pick.propensity == pytest.approx(table[pick.row, place])
            assert (pick.placement == EXPLORED) == (pick.row >= ranked)
            seen.add((pick.row, place))
    assert seen >= {at for at, likely in table.items() if likely > 0.05}


RANKED, OTHERS, RATE, REQUESTS = 4, 3, 0.3, 20_000


def facts_of(count: int) -> Facts:
    facts = Facts()
    facts.put([item_of(f"i{row}", users=row % 3) for row in range(count)])
    return facts


def job_of(request_id: str, method: ExplorationMethod, rate: float = RATE) -> Job:
    query = Query("u", RANKED, arrangement=Arrangement(exploration=rate, exploration_method=method))
    job = Job(query, 0.0, request_id=request_id)
    pool = [Pick(row, -float(row)) for row in range(RANKED + OTHERS)]
    job.picks, job.others = pool[:RANKED], pool[RANKED:]
    return job


def conditional(pick: Pick) -> float:
    """A wrong propensity: given what chance did at the places before, and not over all that it might have done."""
    return RATE / OTHERS if pick.placement == EXPLORED else 1.0 - RATE


@pytest.mark.parametrize("target_rate", [0.0, 0.6], ids=["no exploration", "more exploration"])
def test_inverse_propensity_estimates_of_a_known_policy_are_unbiased_and_wrong_propensities_are_found_out(
    target_rate: float,
) -> None:
    """Rewards of an item at a place are known; the value of a target policy is estimated from what another showed."""
    numbers = np.random.default_rng(7)
    likes = numbers.random((RANKED + OTHERS, RANKED))  # row, place -> probability of a click
    target = by_enumeration(RANKED, OTHERS, target_rate, uniform=True)
    value = sum(likely * likes[at] for at, likely in target.items())
    facts, right, wrong = facts_of(RANKED + OTHERS), [], []
    for n in range(REQUESTS):
        job = job_of(f"request-{n}", "epsilon")
        explore([job], facts, 10)
        clicks = numbers.random(RANKED) < likes[[pick.row for pick in job.picks], range(RANKED)]
        gained = [
            (pick, click * target[pick.row, place])
            for place, (pick, click) in enumerate(zip(job.picks, clicks, strict=True))
        ]
        right.append(sum(gain / pick.propensity for pick, gain in gained))
        wrong.append(sum(gain / conditional(pick) for pick, gain in gained))
    error = 4.0 * float(np.std(right)) / math.sqrt(REQUESTS)
    assert abs(float(np.mean(right)) - value) < error
    assert abs(float(np.mean(wrong)) - value) > error
    assert error < 0.05 * value


def test_the_same_request_id_is_the_same_chance() -> None:
    facts = facts_of(RANKED + OTHERS)
    first, again, other = (job_of(request_id, "epsilon", 0.5) for request_id in ("r1", "r1", "r2"))
    explore([first, again, other], facts, 10)
    assert first.picks == again.picks != other.picks


def test_ucb_explores_new_items_only_the_least_met_first() -> None:
    facts = Facts()
    met = [50, 50, 50, 50, 3, 20, 0]
    facts.put([item_of(f"i{row}", users=users) for row, users in enumerate(met)])
    job = job_of("r", "ucb", 1.0)
    explore([job], facts, 10)
    assert [pick.row for pick in job.picks] == [6, 4, 0, 1]
    assert [pick.propensity for pick in job.picks] == [1.0] * 4
    assert job.policy == "ucb 1"


def test_with_nothing_new_there_is_nothing_to_explore() -> None:
    facts = Facts()
    facts.put([item_of(f"i{row}", users=50) for row in range(RANKED + OTHERS)])
    job = job_of("r", "ucb", 1.0)
    shown = list(job.picks)
    explore([job], facts, 10)
    assert (job.picks, job.policy) == (shown, "")


ITEMS = [f"i{n}" for n in range(40)]
CATEGORIES = {item: ("all", f"c{n % 4}") for n, item in enumerate(ITEMS)}


async def test_an_explored_item_says_so_with_its_users_and_the_others_keep_their_reasons(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3"])
    arrangement = Arrangement(exploration=0.5)
    answers = [await world.rank("u", 5, arrangement=arrangement) for _ in range(20)]
    items = [item for answer in answers for item in answer.items]
    assert {item.placement == EXPLORED for item in items} == {True, False}
    for item in items:
        told = item.explanation
        if item.placement == EXPLORED:
            assert told.explored.users == ITEMS.index(item.item_id)
        else:
            assert told.history.item_id == "i3"
        assert 0 < item.propensity <= 1
    assert {answer.policy for answer in answers} == {"epsilon 0.5"}


async def test_without_exploration_no_propensity_and_no_policy_is_told(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3"])
    answer = await world.rank("u", 5, arrangement=Arrangement(0.5, "mmr", 2))
    assert answer.policy == ""
    assert not any(item.HasField("propensity") for item in answer.items)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    k=st.integers(1, 30),
    limit=st.integers(0, 3),
    strength=st.sampled_from([0.0, 0.6]),
    excluded=st.sets(st.sampled_from(ITEMS), max_size=4),
)
async def test_what_is_explored_passes_every_filter_and_limit(
    world: World, k: int, limit: int, strength: float, excluded: set[str]
) -> None:
    await stocked(world, CATEGORIES, ["i3"])
    arrangement = Arrangement(strength, "mmr", limit, 0.7, "epsilon")
    shown = await world.ids("u", k, excludes=tuple(excluded), arrangement=arrangement)
    without = await world.ids("u", k, excludes=tuple(excluded), arrangement=replace(arrangement, exploration=0.0))
    assert len(shown) == len(set(shown)) == len(without)
    assert not {*excluded, "i3"} & set(shown)
    if limit:
        of_category = Counter(CATEGORIES[item][1] for item in shown)
        assert max(of_category.values(), default=0) <= limit
