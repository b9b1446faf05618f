"""services/ranking/stages/diversify.py: what is shown is good, unlike each other, and within the limits of categories."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ranking.requests import Arrangement
from shared.models.diversity import unit, unlikeness
from tests.services.ranking.conftest import World, stocked
from tests.services.ranking.doubles import vector_of

ITEMS = [f"i{n}" for n in range(60)]  # the pool is 20
CATEGORIES = {item: ("all", f"c{n % 3}", f"d{n % 7}") for n, item in enumerate(ITEMS)}


def spread(ids: list[str]) -> float:
    return unlikeness(unit(torch.stack([vector_of(i) for i in ids]).double().numpy()))


async def test_no_diversity_is_the_same_answer_to_the_bit(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    plain = await world.rank("u", 10)
    asked = await world.rank("u", 10, arrangement=Arrangement(0.0, "dpp"))
    plain.request_id = asked.request_id = ""
    assert plain.SerializeToString() == asked.SerializeToString()


@pytest.mark.parametrize("method", ["mmr", "dpp"])
async def test_diverse_lists_are_of_the_pool_begin_with_the_best_and_are_less_alike(world: World, method: Any) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    pool = await world.ids("u", 20)
    found = await world.ids("u", 8, arrangement=Arrangement(0.7, method))
    assert found[0] == pool[0]
    assert set(found) <= set(pool)
    assert len(set(found)) == 8
    assert spread(found) > spread(pool[:8])


async def test_scores_and_explanations_belong_to_the_items_that_are_shown(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    scores = {item.item_id: item.score for item in (await world.rank("u", 20)).items}
    for item in (await world.rank("u", 10, arrangement=Arrangement(0.5))).items:
        assert item.score == scores[item.item_id]
        assert item.explanation.history.item_id in ("i3", "i7")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    k=st.integers(1, 60),
    strength=st.sampled_from([0.0, 0.4, 1.0]),
    limit=st.integers(1, 5),
    user=st.sampled_from(["u", "v"]),
)
async def test_no_category_is_shown_more_often_than_asked_for_whatever_k(
    world: World, k: int, strength: float, limit: int, user: str
) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    found = await world.ids(user, k, arrangement=Arrangement(strength, "mmr", limit))
    shown = Counter(category for item in found for category in CATEGORIES[item])
    del shown["all"]  # every item has it, so that it tells none apart
    assert max(shown.values()) <= limit
    assert len(set(found)) == len(found) <= k


async def test_a_limit_alone_keeps_the_order_of_scores(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    order = await world.ids("u", 60)
    found = await world.ids("u", 6, arrangement=Arrangement(per_category=2))
    assert [order.index(item) for item in found] == sorted(order.index(item) for item in found)
    assert found[0] == order[0]


async def test_without_a_model_limits_hold_and_diversity_changes_nothing(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"], model=False)
    assert await world.ids("u", 5, arrangement=Arrangement(0.9)) == await world.ids("u", 5)
    limited = await world.ids("u", 60, arrangement=Arrangement(0.9, "mmr", 1))
    assert limited[0] == "i59"
    assert len(limited) == 3


async def test_beyond_the_pool_the_order_of_scores_goes_on(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    order = await world.ids("u", 60)
    found = await world.ids("u", 40, arrangement=Arrangement(0.7))
    assert set(found[:20]) == set(order[:20])
    assert found[20:] == order[20:40]


@pytest.mark.parametrize("method", ["mmr", "dpp"])
async def test_nothing_to_choose_from_is_an_empty_answer(world: World, method: Any) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    asked = Arrangement(0.5, method, 2, 0.5)
    assert await world.ids("u", 5, categories=("none",), arrangement=asked) == []
    assert await world.ids("u", 5, candidates=("i1",), arrangement=asked) == ["i1"]
