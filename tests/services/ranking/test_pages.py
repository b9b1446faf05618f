"""services/ranking/pages.py: pages never repeat an item, whatever happens between them, and no foreign token is taken."""

import base64
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ranking import pages, requests
from services.ranking.requests import Arrangement
from services.ranking.rules import Pin, Rules
from shared.errors import InvalidRequest
from shared.pb.finestream.v1.ranking_pb2 import RankRequest
from tests.services.ranking.conftest import World
from tests.services.ranking.doubles import DotModel, item_of, user_of

ITEMS = [f"i{n}" for n in range(50)]


async def stocked(world: World) -> World:
    if not world.catalogue.current.facts.item_ids:
        await world.stock([item_of(i, users=n, categories=[f"c{n % 3}"]) for n, i in enumerate(ITEMS)])
        world.graph.put(user_of("u", ["i3"]))
        await world.publish()
    return world


async def page(world: World, token: str, k: int, **rest: Any) -> tuple[list[str], str]:
    shown = pages.shown("u", token) if token else ()
    answer = await world.rank("u", k, paged=True, shown=shown, **rest)
    return [item.item_id for item in answer.items], answer.next_page_token


async def all_pages(world: World, k: int, **rest: Any) -> list[str]:
    found, token = await page(world, "", k, **rest)
    while token:
        more, token = await page(world, token, k, **rest)
        found += more
    return found


async def test_pages_one_after_the_other_are_the_whole_ranking(world: World) -> None:
    await stocked(world)
    assert await all_pages(world, 8) == await world.ids("u", 60)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    k=st.integers(3, 20),
    arrangement=st.builds(Arrangement, st.sampled_from([0.0, 0.6]), exploration=st.sampled_from([0.0, 0.7])),
)
async def test_diverse_and_explored_pages_repeat_nothing_and_hold_everything(
    world: World, k: int, arrangement: Arrangement
) -> None:
    await stocked(world)
    found = await all_pages(world, k, arrangement=arrangement)
    assert len(found) == len(set(found))
    assert set(found) == {*ITEMS} - {"i3"}


async def test_a_click_and_a_new_model_between_two_pages_repeat_nothing(world: World) -> None:
    await stocked(world)
    first, token = await page(world, "", 10)
    world.graph.put(user_of("u", ["i3", "i40"]))
    await world.publish(DotModel(), "v2")
    second, _ = await page(world, token, 10)
    assert not {*first} & {*second}


async def test_a_rules_place_counts_from_the_first_page(world: World) -> None:
    await stocked(world)
    order = await world.ids("u", 60)
    world.rules = Rules((Pin(order[40], 2), Pin(order[41], 12)))
    first, token = await page(world, "", 10)
    second, _ = await page(world, token, 10)
    assert (first[1], second[1]) == (order[40], order[41])
    assert not {*first} & {*second}


async def test_a_token_is_given_to_who_asks_and_while_there_is_more(world: World) -> None:
    await stocked(world)
    assert (await world.rank("u", 5)).next_page_token == ""
    assert (await world.rank("u", 5, paged=True)).next_page_token != ""
    assert (await world.rank("u", 60, paged=True)).next_page_token == ""


@given(st.lists(st.text(min_size=1, max_size=256), max_size=1000), st.text(min_size=1))
@settings(max_examples=50, deadline=None)
def test_what_a_token_says_is_what_was_shown(shown: list[str], user: str) -> None:
    token = pages.token(user, shown)
    assert not token or pages.shown(user, token) == tuple(shown)


def test_beyond_the_most_there_is_no_next_page() -> None:
    assert pages.token("u", ["i"] * pages.MAX_SHOWN)
    assert pages.token("u", ["i"] * (pages.MAX_SHOWN + 1)) == ""


def packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(zlib.compress(data)).decode()


GOOD = pages.token("u", ["a", "b"])


@pytest.mark.parametrize(
    "token",
    ["x", "ä", GOOD[:-4], GOOD + "AAAA", packed(b""), packed(b"\x93\x02\x00\x90"), packed(b"0" * 10**7), "A" * 10**6],
    ids=["short", "no ASCII", "cut", "longer", "empty", "another version", "unpacks to much", "too long"],
)
def test_a_token_that_is_not_ours_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequest, match="not one that Rank gave") as caught:
        requests.read(RankRequest(user_id="u", page_token=token), 1000)
    assert caught.value.field == "page_token"


def test_another_users_token_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="of another user"):
        requests.read(RankRequest(user_id="v", page_token=GOOD), 1000)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_no_text_breaks_it(token: str) -> None:
    with suppress(InvalidRequest):
        pages.shown("u", token)
