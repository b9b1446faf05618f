"""services/ranking/pipeline.py: rungs, filters and answers, over the real stages and a graph double."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ranking.generation import Release
from shared.errors import DeadlineExceeded
from shared.pb.finestream.v1 import ranking_pb2
from tests.parts import until
from tests.services.ranking.conftest import SECONDS, World, opened, state_of
from tests.services.ranking.doubles import NOW, DotModel, item_of, user_of, vector_of

ITEMS = [f"i{n}" for n in range(30)]
FULL, CACHED, POPULAR = ranking_pb2.RUNG_FULL, ranking_pb2.RUNG_CACHED, ranking_pb2.RUNG_POPULAR


def expected(history: Sequence[str], left_out: Sequence[str] = (), of: Sequence[str] = ITEMS) -> list[str]:
    """The order that DotModel means, sorted in full."""
    user = sum(vector_of(i) for i in history) / len(history)
    able = [i for i in of if i not in left_out]
    return sorted(able, key=lambda i: -float(vector_of(i) @ user))


async def stocked(world: World) -> World:
    await world.stock([item_of(i, users=n, categories=[f"c{n % 3}"]) for n, i in enumerate(ITEMS)])
    return world


async def test_without_a_bundle_everybody_gets_popular_items_and_is_told_so(world: World) -> None:
    await stocked(world)
    world.graph.put(user_of("u", ["i29"]))
    answer = await world.rank("u", 3)
    assert [item.item_id for item in answer.items] == ["i28", "i27", "i26"]  # i29 is seen
    assert answer.items[0].explanation.popular.users == 28
    assert (answer.rung, answer.model_version) == (POPULAR, "")
    assert "no model has been published" in answer.rung_reason


async def test_a_known_user_gets_the_models_order_without_what_they_have_seen(world: World) -> None:
    await stocked(world)
    await world.publish()
    world.graph.put(user_of("u", ["i3", "i7"]))
    answer = await world.rank("u", 5)
    assert [item.item_id for item in answer.items] == expected(["i3", "i7"], ["i3", "i7"])[:5]
    assert [item.score for item in answer.items] == sorted((item.score for item in answer.items), reverse=True)
    assert (answer.rung, answer.rung_reason, answer.model_version) == (FULL, "", "v1")
    assert answer.watermark == NOW + 1
    assert len(answer.request_id) == 32


async def test_who_is_alone_waits_for_no_company_however_long_others_would() -> None:
    async with opened(longest_wait=60.0) as world:
        await stocked(world)
        await world.publish()
        for _ in range(3):  # one after the other
            assert (await asyncio.wait_for(world.rank("u", 3, seconds=600.0), 10)).items
        second = asyncio.gather(world.rank("u", 3, seconds=600.0), world.rank("v", 3, seconds=600.0))
        assert [len(answer.items) for answer in await asyncio.wait_for(second, 10)] == [3, 3], "they came together"


@asynccontextmanager
async def busy(world: World, seconds: float) -> AsyncIterator[threading.Event]:
    """A ranking has been read and waits for the inference thread, until the gate is set; batches have taken so long."""
    await stocked(world)
    await world.publish()
    world.graph.put(user_of("u", ["i3"]), *(user_of(f"v{n}", ["i7"]) for n in range(5)))
    gate = threading.Event()
    held = asyncio.create_task(world.inference.run(gate.wait, 60.0))
    first = asyncio.create_task(world.rank("u", 3, seconds=600.0))
    await until(lambda: world.pipeline._together._begun != [], 5, "the first is being ranked")
    world.pipeline._together._batch_seconds = seconds
    yield gate
    gate.set()
    assert (await asyncio.wait_for(first, 10)).rung == FULL
    await held


async def test_who_comes_while_others_are_ranked_is_read_with_the_next_as_soon_as_those_have_ended(
    world: World,
) -> None:
    world.pipeline._hydrate._timeout = 600.0
    async with busy(world, 200.0) as gate:
        asking = []
        for n in range(5):
            asking.append(asyncio.create_task(world.rank(f"v{n}", 3, seconds=600.0)))
            await asyncio.sleep(0.01)  # twice as long as who need not wait for their turn would wait for company
        assert world.graph.calls == [1]
        gate.set()
        answers = await asyncio.wait_for(asyncio.gather(*asking), 10)  # not after the 100 s that were to be expected
    assert world.graph.calls == [1, 5]
    assert {answer.rung for answer in answers} == {FULL}


async def test_however_long_others_are_ranked_time_is_left_to_read_a_state(world: World) -> None:
    async with busy(world, 4.0) as gate:
        asking = asyncio.create_task(world.rank("v0", 3, seconds=60.0))
        await until(lambda: world.graph.calls == [1, 1], 5, "it has been read")
        gate.set()
        assert (await asking).rung == FULL, "not from the last known state"


async def test_seen_items_come_when_asked_for(world: World) -> None:
    await stocked(world)
    await world.publish()
    world.graph.put(user_of("u", ["i3"]))
    assert await world.ids("u", 4, include_seen=True) == expected(["i3"])[:4]


async def test_an_unknown_user_gets_popular_items_and_is_told_so(world: World) -> None:
    await stocked(world)
    await world.publish()
    answer = await world.rank("stranger", 2)
    assert [item.item_id for item in answer.items] == ["i29", "i28"]
    assert (answer.rung, answer.watermark, answer.model_version) == (POPULAR, 0.0, "v1")
    assert "nothing is known of this user" in answer.rung_reason


async def test_an_unknown_user_with_known_context_stands_on_the_full_rung(world: World) -> None:
    await stocked(world)
    await world.publish()
    answer = await world.rank("stranger", 4, context=("i5", "gone"))
    assert [item.item_id for item in answer.items] == expected(["i5"], ["i5"])[:4]
    assert (answer.rung, answer.watermark) == (FULL, 0.0)
    assert {item.explanation.history.item_id for item in answer.items} == {"i5"}


async def test_context_comes_on_top_of_the_history(world: World) -> None:
    await stocked(world)
    await world.publish()
    world.graph.put(user_of("u", ["i3"]))
    assert await world.ids("u", 4, context=("i5",)) == expected(["i3", "i5"], ["i3", "i5"])[:4]


async def test_a_history_without_any_item_of_the_catalogue_gets_popular_items(world: World) -> None:
    await stocked(world)
    await world.publish()
    world.graph.put(user_of("u", ["gone"]))
    answer = await world.rank("u", 1)
    assert (answer.rung, answer.watermark) == (POPULAR, NOW)
    assert "in the catalogue" in answer.rung_reason


async def test_candidates_excludes_and_categories_bound_what_is_ranked(world: World) -> None:
    await stocked(world)
    await world.publish()
    world.graph.put(user_of("u", ["i0"]))
    some = ("i1", "i2", "i4", "i0", "nowhere")
    assert await world.ids("u", candidates=some) == expected(["i0"], ["i0"], ["i1", "i2", "i4", "i0"])
    assert await world.ids("u", candidates=some, excludes=("i2",)) == expected(["i0"], of=["i1", "i4"])
    c1 = [i for n, i in enumerate(ITEMS) if n % 3 == 1]
    assert await world.ids("u", 30, categories=("c1",)) == expected(["i0"], of=c1)
    assert await world.ids("u", candidates=some, categories=("c1", "none")) == expected(["i0"], of=["i1", "i4"])
    assert await world.ids("u", categories=("none",)) == []
    assert await world.ids("u", candidates=("nowhere",)) == []


async def test_explanations_are_left_out_when_asked(world: World) -> None:
    await stocked(world)
    answer = await world.rank("u", 3, explain=False)
    assert not any(item.HasField("explanation") for item in answer.items)


async def test_an_empty_catalogue_answers_an_empty_list(world: World) -> None:
    await world.publish()
    assert (await world.rank("u", 3)).items == []


async def test_when_graph_updater_is_silent_the_last_known_state_is_ranked_and_said_so(world: World) -> None:
    await stocked(world)
    await world.publish()
    world.graph.put(user_of("u", ["i3"]))
    before = await world.ids("u", 5)
    for fault in ("silent", "hanging"):
        setattr(world.graph, fault, True)
        answer = await world.rank("u", 5)
        assert [item.item_id for item in answer.items] == before
        assert answer.rung == CACHED
        assert "last known" in answer.rung_reason
        setattr(world.graph, fault, False)
    assert (await world.rank("u", 5)).rung == FULL


async def test_who_has_little_time_does_not_wait_with_those_who_share_the_batch(world: World) -> None:
    await stocked(world)
    await world.publish()
    world.graph.put(user_of("u", ["i3"]))
    await world.rank("u")
    world.graph.hanging = True
    patient, hurried = (asyncio.create_task(world.rank("u", 5, seconds)) for seconds in (10.0, 0.2))
    assert (await hurried).rung == CACHED
    assert not patient.done()
    world.graph.hanging = False
    assert (await patient).rung == FULL


async def test_when_graph_updater_is_silent_a_user_never_read_gets_popular_items(world: World) -> None:
    await stocked(world)
    await world.publish()
    world.graph.put(user_of("u", ["i3"]))
    world.graph.silent = True
    answer = await world.rank("u", 1)
    assert (answer.rung, answer.items[0].item_id) == (POPULAR, "i29")
    assert "cannot be read" in answer.rung_reason
    assert (await world.rank("u", 1, context=("i5",))).rung == CACHED


async def test_an_erased_user_is_not_ranked_from_memory(world: World) -> None:
    await stocked(world)
    await world.publish()
    world.graph.put(user_of("u", ["i3"]))
    await world.rank("u")
    world.cache.forget("u")
    world.graph.silent = True
    assert (await world.rank("u")).rung == POPULAR


async def test_a_request_that_breaks_the_model_fails_alone(world: World) -> None:
    await stocked(world)
    await world.publish()
    world.graph.put(user_of("u", ["i3"]), user_of("poison", ["i3"]))
    answers = await asyncio.gather(world.rank("u"), world.rank("poison"), world.rank("v"), return_exceptions=True)
    assert isinstance(answers[0], ranking_pb2.RankResponse)
    assert answers[0].rung == FULL
    assert isinstance(answers[1], RuntimeError)
    assert isinstance(answers[2], ranking_pb2.RankResponse)


async def test_states_of_another_space_are_read_again(world: World) -> None:
    await stocked(world)
    await world.publish(DotModel("a"), "v1")
    world.graph.put(user_of("u", ["i3"]))
    world.graph.hanging = True
    asking = asyncio.create_task(world.rank("u", 5, seconds=10.0))
    while not world.graph.calls:
        await asyncio.sleep(0.001)
    world.catalogue.current.release = Release("v2", DotModel("b"))  # as if swapped while the state was on its way
    world.graph.hanging = False
    answer = await asking
    assert answer.model_version == "v2"
    assert world.graph.spaces >= {"a", "b"}


async def test_timings_are_told_to_who_asks_for_them(world: World) -> None:
    await stocked(world)
    await world.publish()
    world.graph.put(user_of("u", ["i3"]))
    asked, not_asked = await asyncio.gather(world.rank("u", timings=True), world.rank("u"))
    assert [timing.stage for timing in asked.timings] == [
        "hydrate", "queue", "assign", "ladder", "source", "filter", "score", "select", "diversify", "explore",
        "explain", "respond",
    ]  # fmt: skip
    assert all(0.0 <= timing.seconds < SECONDS for timing in asked.timings)
    assert not not_asked.timings


async def test_one_call_of_graph_updater_serves_a_micro_batch(world: World) -> None:
    await stocked(world)
    await asyncio.gather(*(world.rank(f"u{n}") for n in range(60)))
    assert sum(world.graph.calls) == 60
    assert len(world.graph.calls) <= 8


def bare(answer: ranking_pb2.RankResponse) -> ranking_pb2.RankResponse:
    answer.request_id = ""
    return answer


IDS = st.sampled_from(ITEMS)
REQUESTS = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from(["a", "b", "c", "stranger"]),
            "k": st.integers(1, 40),
            "candidates": st.one_of(st.just(()), st.lists(IDS, max_size=8, unique=True).map(tuple)),
            "context": st.lists(IDS, max_size=3).map(tuple),
            "excludes": st.lists(IDS, max_size=5, unique=True).map(tuple),
            "categories": st.lists(st.sampled_from(["c0", "c1", "c2"]), max_size=2, unique=True).map(tuple),
            "prices": st.none() | st.sampled_from([(0.0, 0.0), (3.3, math.inf), (1.1, 1.1), (2.0, 8.8), (50.0, 60.0)]),
            "include_seen": st.booleans(),
        }
    ),
    min_size=1,
    max_size=12,
)
HISTORIES = {"a": ["i1", "i2"], "b": ["i9"], "c": ["i4", "i4", "i20", "gone"], "stranger": []}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=REQUESTS, withdrawn=st.sets(IDS, max_size=4))
async def test_filters_never_leak_and_an_answer_does_not_depend_on_who_shares_the_batch(
    world: World, requests: list[dict[str, Any]], withdrawn: set[str]
) -> None:
    if not world.catalogue.current.release.version:
        await stocked(world)
        await world.publish()
        world.graph.put(*(user_of(user, items) for user, items in HISTORIES.items() if items))
    facts = world.catalogue.current.facts
    await world.stock([
        item_of(i, facts.versions[facts.row_of[i]] + 1, users=n, categories=[f"c{n % 3}"],
                available=i not in withdrawn, price=price_of(n))
        for n, i in enumerate(ITEMS)
    ])  # fmt: skip
    together = await asyncio.gather(*(world.rank(**request) for request in requests))
    alone = [await world.rank(**request) for request in requests]
    assert [bare(answer) for answer in together] == [bare(answer) for answer in alone]
    for request, answer in zip(requests, together, strict=True):
        check_filters(request, [item.item_id for item in answer.items], withdrawn)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(low=st.floats(0, 15), width=st.floats(0, 15), some=st.sampled_from([(), ("c1",)]), personal=st.booleans())
async def test_an_answer_within_bounds_is_the_whole_one_without_what_is_not(
    world: World, low: float, width: float, some: tuple[str, ...], personal: bool
) -> None:
    if not world.catalogue.current.release.version:
        await world.stock([
            item_of(i, users=n, categories=[f"c{n % 3}"], price=price_of(n)) for n, i in enumerate(ITEMS)
        ])  # fmt: skip
        await world.publish()
        world.graph.put(user_of("u", ["i1"]))
    user = "u" if personal else "stranger"
    whole = await world.ids(user, 40, categories=some)
    kept = [i for i in whole if (price := price_of(ITEMS.index(i))) is not None and low <= price <= low + width]
    assert await world.ids(user, 5, categories=some, prices=(low, low + width)) == kept[:5]


def price_of(n: int) -> float | None:
    """Of the item of that number; every fourth has none. 1.1 and its like are no sums of powers of 2."""
    return None if n % 4 == 3 else 1.1 * (n // 2)


def check_filters(request: dict[str, Any], shown: list[str], withdrawn: set[str]) -> None:
    able = set(request["candidates"] or ITEMS) - withdrawn - set(request["excludes"])
    if not request["include_seen"]:
        able -= {*HISTORIES[request["user_id"]], *request["context"]}
    if request["categories"]:
        able &= {i for n, i in enumerate(ITEMS) if f"c{n % 3}" in request["categories"]}
    if request["prices"]:
        low, high = request["prices"]
        able &= {i for n, i in enumerate(ITEMS) if (price := price_of(n)) is not None and low <= price <= high}
    assert set(shown) <= able
    assert len(shown) == len(set(shown)) == min(len(able), request["k"])


async def test_a_withdrawn_item_is_gone_before_its_state_is_fetched(world: World) -> None:
    await stocked(world)
    assert (await world.ids("u", 1)) == ["i29"]
    await world.catalogue.tell([state_of(item_of("i29", 2, available=False))])
    assert (await world.ids("u", 1)) == ["i28"]


async def test_an_expired_deadline_is_refused(world: World) -> None:
    with pytest.raises(DeadlineExceeded):
        await world.rank("u", seconds=-0.1)
