"""services/ranking/rules.py and the stages that keep them: boosts, pins and quotas hold in every answer."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.ranking import metrics
from services.ranking.requests import Arrangement
from services.ranking.rules import NO_RULES, Boost, Pin, Quota, Rules, read
from shared.pb.finestream.v1 import ranking_pb2
from shared.watched_file import BadFile, WatchedFile
from tests.parts import refusal_of
from tests.services.ranking.conftest import World, stocked
from tests.services.ranking.doubles import item_of

PINNED, EXPLORED = ranking_pb2.PLACEMENT_PINNED, ranking_pb2.PLACEMENT_EXPLORED
ITEMS = [f"i{n}" for n in range(60)]  # the pool is 20
CATEGORIES = {item: ("all", f"c{n % 3}") for n, item in enumerate(ITEMS)}
ALL = """
pins:
  - {item: i1, position: 2}
boosts:
  - {category: c1, factor: 1.5}
  - {item: i2, offset: -3}
quotas:
  - {category: c0, most: 2}
"""


def file_of(folder: Path, text: str) -> Path:
    path = folder / "rules.yaml"
    path.write_text(text)
    return path


def test_a_file_is_read_as_yaml_and_as_json(tmp_path: Path) -> None:
    expected = Rules((Pin("i1", 2),), (Boost(category="c1", factor=1.5), Boost("i2", offset=-3)), (Quota("c0", 2),))
    assert read(file_of(tmp_path, ALL)) == expected
    assert read(file_of(tmp_path, '{"quotas": [{"category": "c0", "most": 2}]}')) == Rules(quotas=(Quota("c0", 2),))
    assert read(file_of(tmp_path, "")) == Rules()


BAD = {
    "no rules at all": ("[1, 2]", "Expected `object`"),
    "not YAML": ("pins: [", "neither YAML nor JSON"),
    "a name there is none of": ("pin: []", "unknown field `pin`"),
    "a place before the first": ("pins: [{item: a, position: 0}]", "$.pins[0].position"),
    "a place twice": ("pins: [{item: a, position: 1}, {item: b, position: 1}]", "a position is pinned twice: 1"),
    "an item twice": ("pins: [{item: a, position: 1}, {item: a, position: 2}]", "an item is pinned twice: a"),
    "a boost of nothing": ("boosts: [{factor: 2}]", "of an item or of a category"),
    "a boost of both": ("boosts: [{item: a, category: c, factor: 2}]", "name one of them"),
    "a boost without effect": ("boosts: [{item: a}]", "give one of them"),
    "a boost by both": ("boosts: [{item: a, factor: 2, offset: 1}]", "give one of them"),
    "a factor of 0": ("boosts: [{item: a, factor: 0}]", "$.boosts[0].factor"),
    "an offset that is no number": ("boosts: [{item: a, offset: .nan}]", "$.boosts[0].offset"),
    "a quota of 0": ("quotas: [{category: c, most: 0}]", "$.quotas[0].most"),
    "a quota twice": ("quotas: [{category: c, most: 1}, {category: c, most: 2}]", "has a quota twice: c"),
    "too many pins": ("pins: [" + ",".join(f"{{item: i{n}, position: {n + 1}}}" for n in range(101)) + "]", "$.pins"),
    "nested too deep": ("[" * 50_000, "nested too deep"),
    "too large": ("#" * (256 * 1024 + 1), "more than 262144 bytes"),
}


@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD.keys())
def test_a_wrong_file_is_one_sentence_that_names_it(tmp_path: Path, text: str, says: str) -> None:
    path = file_of(tmp_path, text)
    assert says in refusal_of(path, read)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="cannot be read: No such file"):
        followed(tmp_path / "none.yaml")


def followed(path: Path) -> WatchedFile[Rules]:
    return WatchedFile(path, read, NO_RULES, metrics.RULES_FAILURES.inc)


def refused() -> float:
    return REGISTRY.get_sample_value("finestream_ranking_rules_failures_total") or 0.0


def test_a_changed_file_counts_at_the_next_look_and_a_wrong_one_changes_nothing(tmp_path: Path) -> None:
    path = file_of(tmp_path, ALL)
    file = followed(path)
    held, before = file.current, refused()
    file.look()
    assert file.current is held
    replaced(path, "quotas: [{category: c0, most: 7}]")
    file.look()
    assert file.current == Rules(quotas=(Quota("c0", 7),))
    replaced(path, "quotas: 7")
    file.look()
    file.look()
    assert (file.current, refused()) == (Rules(quotas=(Quota("c0", 7),)), before + 1)
    path.unlink()
    file.look()
    assert (file.current.quotas, refused()) == ((Quota("c0", 7),), before + 2)


def replaced(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


async def test_an_item_far_down_is_raised_to_the_top_and_the_first_is_lowered_to_the_end(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    order = await world.ids("u", 60)
    world.rules = Rules(boosts=(Boost(order[-1], offset=1000.0), Boost(order[0], offset=-1000.0)))
    assert await world.ids("u", 60) == [order[-1], *order[1:-1], order[0]]
    assert await world.ids("u", 1) == [order[-1]]


async def test_a_factor_raises_what_is_above_0_and_what_is_below(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    plain = {item.item_id: item.score for item in (await world.rank("u", 60)).items}
    world.rules = Rules(boosts=(Boost(category="c1", factor=2.0), Boost(category="c2", factor=0.5)))
    for item in (await world.rank("u", 60)).items:
        before, by = plain[item.item_id], {"c1": 2.0, "c2": 0.5}.get(CATEGORIES[item.item_id][1], 1.0)
        assert item.score == pytest.approx(before * by if before > 0 else before / by)


async def test_boosts_follow_the_catalogue_and_the_rules(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    world.rules = Rules(boosts=(Boost("new", offset=1000.0),))
    assert "new" not in await world.ids("u", 60)
    await world.stock([item_of("new")])
    assert (await world.ids("u", 1)) == ["new"]
    world.rules = Rules()
    assert (await world.ids("u", 1)) != ["new"]


async def test_popular_items_are_raised_by_factors_alone_and_are_still_told_by_how_many_users_met_them(
    world: World,
) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"], model=False)
    world.rules = Rules(boosts=(Boost("i30", factor=10.0), Boost("i0", offset=1000.0)))
    first, second = (await world.rank("v", 2)).items
    assert (first.item_id, second.item_id) == ("i30", "i59")
    assert (first.explanation.popular.users, first.score) == (30, 300)


async def test_a_pinned_item_stands_at_its_place_and_says_so(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    order = await world.ids("u", 60)
    far = order[50]
    world.rules = Rules(pins=(Pin(far, 2), Pin(order[0], 4), Pin("unknown", 1), Pin("i3", 3), Pin(order[9], 30)))
    answer = await world.rank("u", 5)  # i3 is seen, and place 30 is none of these
    assert [item.item_id for item in answer.items] == [order[1], far, order[2], order[0], order[3]]
    assert [item.placement == PINNED for item in answer.items] == [False, True, False, True, False]
    assert [item.explanation.WhichOneof("reason") for item in answer.items] == [
        "history", "pinned", "history", "pinned", "history",
    ]  # fmt: skip


async def test_a_pinned_item_passes_every_filter_of_the_request(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    order = await world.ids("u", 60)
    world.rules = Rules(pins=(Pin("i4", 1),))
    assert (await world.ids("u", 3))[0] == "i4"
    assert "i4" not in await world.ids("u", 3, excludes=("i4",))
    assert "i4" not in await world.ids("u", 3, categories=("c0",))
    assert await world.ids("u", 3, candidates=("i5", "i4")) == ["i4", "i5"]
    assert "i4" not in await world.ids("u", 3, candidates=("i5",))
    assert "i4" not in await world.ids("u", 3, prices=(0.0, 9.0))
    await world.stock([item_of("i4", 2, categories=CATEGORIES["i4"], price=5.0)])
    assert await world.ids("u", 3, prices=(0.0, 9.0)) == ["i4"]
    assert await world.ids("u", 3, prices=(6.0, 9.0)) == []
    await world.stock([item_of("i4", 3, available=False)])
    assert (await world.ids("u", 3)) == [item for item in order if item != "i4"][:3]


async def test_a_short_answer_has_the_pinned_item_at_its_end(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    world.rules = Rules(pins=(Pin("i4", 9),))
    assert await world.ids("u", 10, candidates=("i4", "i5")) == ["i5", "i4"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    k=st.integers(1, 30),
    pinned=st.dictionaries(st.integers(1, 12), st.sampled_from(ITEMS), max_size=3),
    quota=st.integers(1, 4),
    arrangement=st.builds(Arrangement, st.sampled_from([0.0, 0.5]), exploration=st.sampled_from([0.0, 0.6])),
    user=st.sampled_from(["u", "stranger"]),
)
async def test_quotas_pins_and_chance_hold_together(
    world: World, k: int, pinned: dict[int, str], quota: int, arrangement: Any, user: str
) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    once = {item: place for place, item in pinned.items() if not (user == "u" and item in ("i3", "i7"))}
    world.rules = Rules(tuple(Pin(item, place) for item, place in once.items()), (), (Quota("c1", quota),))
    items = (await world.rank(user, k, arrangement=arrangement)).items
    shown = [item.item_id for item in items]
    assert len(shown) == len(set(shown)) <= k
    forced = [item for item in shown if item in once]
    of_category = Counter(CATEGORIES[item][1] for item in shown)
    assert of_category["c1"] <= max(quota, sum(CATEGORIES[item][1] == "c1" for item in forced))
    for place, item in enumerate(items, 1):
        if item.item_id in once and once[item.item_id] <= k:
            assert item.placement == PINNED
            assert place == min(once[item.item_id], len(items)) or len(shown) < k
        assert item.placement != PINNED or item.item_id in once


async def test_a_quota_holds_for_a_category_that_every_item_has(world: World) -> None:
    await stocked(world, CATEGORIES, ["i3", "i7"])
    world.rules = Rules(quotas=(Quota("all", 3),))
    assert len(await world.ids("u", 10)) == 3
