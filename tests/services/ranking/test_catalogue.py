"""services/ranking/catalogue.py: what changes is in the next ranking, and a new model loses nothing meanwhile."""

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import pytest
from prometheus_client import REGISTRY

from services.ranking import catalogue as module
from services.ranking.catalogue import Catalogue
from services.ranking.generation import Generation
from services.ranking.rehearsal import rehearse
from shared.errors import Unavailable
from shared.graph.state import ItemNode
from tests.parts import until
from tests.services.ranking.conftest import World, state_of
from tests.services.ranking.doubles import DotModel, item_of, user_of


def freshness_count() -> float:
    name = "finestream_event_to_visible_seconds_count"
    return REGISTRY.get_sample_value(name, {"kind": "item"}) or 0.0


async def test_freshness_is_measured_once_for_each_item_event_when_its_row_is_swapped(world: World) -> None:
    before, node = freshness_count(), item_of("a")
    changes = [("item", time.time() - 1.0), ("interaction", time.time())]
    world.graph.put(node)
    await world.catalogue.tell([state_of(node, changes)])
    assert freshness_count() == before
    await world.catalogue.refresh()
    assert freshness_count() == before + 1
    await world.catalogue.tell([state_of(node, changes)], live=False)
    await world.catalogue.refresh()
    assert freshness_count() == before + 1


async def test_a_state_that_is_not_to_be_read_yet_is_asked_for_again(world: World) -> None:
    world.graph.put(item_of("a", 1, users=1))
    await world.catalogue.tell([state_of(item_of("a", 2))])
    assert await world.catalogue.refresh() is True
    assert world.catalogue.pending == 1
    world.graph.put(item_of("a", 2, users=5))
    assert await world.catalogue.refresh() is False
    assert world.catalogue.pending == 0
    assert world.catalogue.current.facts.users.tolist() == [5.0]


async def test_an_announced_item_that_nobody_knows_is_given_up(world: World) -> None:
    await world.catalogue.tell([state_of(item_of("ghost"))])
    for _ in range(module.MAX_TRIES):
        await world.catalogue.refresh()
    assert world.catalogue.pending == 0
    assert len(world.catalogue.current.facts) == 0


async def test_an_old_state_that_arrives_late_does_not_bring_a_withdrawn_item_back(world: World) -> None:
    await world.stock([item_of("a"), item_of("b")])
    world.graph.put(item_of("a", 2))
    world.graph.gate = asyncio.Event()
    await world.catalogue.tell([state_of(item_of("a", 2))])
    refreshing = asyncio.create_task(world.catalogue.refresh())
    await until(lambda: len(world.graph.item_calls) >= 2, 5, "the older state is on its way")
    await world.catalogue.tell([state_of(item_of("a", 3, available=False))])
    world.graph.gate.set()
    await refreshing
    assert await world.ids("u") == ["b"]


async def test_an_item_that_is_withdrawn_while_its_older_state_waits_to_be_written_stays_withdrawn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, between = asyncio.Event(), world.inference.between

    def noted() -> AbstractAsyncContextManager[None]:
        waits.set()
        return between()

    await world.stock([item_of("a"), item_of("b")])
    world.graph.put(item_of("a", 2))
    monkeypatch.setattr(world.inference, "between", noted)
    gate = threading.Event()
    ranked = asyncio.create_task(world.inference.run(gate.wait, 10.0))
    await world.catalogue.tell([state_of(item_of("a", 2))])
    refreshing = asyncio.create_task(world.catalogue.refresh())
    await asyncio.wait_for(waits.wait(), 5)
    told = asyncio.create_task(world.catalogue.tell([state_of(item_of("a", 3, available=False))]))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(ranked, told, refreshing)
    assert await world.ids("u") == ["b"]


async def test_one_change_is_fetched_at_once_and_those_that_follow_are_gathered(world: World) -> None:
    catalogue = Catalogue(world.client, world.inference, rehearse, fetch_items=8, gather_seconds=0.5)
    running = asyncio.create_task(catalogue.run())
    nodes = [item_of(f"i{n}") for n in range(6)]
    world.graph.put(*nodes)
    await catalogue.tell([state_of(nodes[0])])
    await until(lambda: len(catalogue.current.facts) == 1, 5, "the first is there")
    for node in nodes[1:]:
        await catalogue.tell([state_of(node)])
        await asyncio.sleep(0)
    await until(lambda: len(catalogue.current.facts) == 6, 5, "all are there")
    running.cancel()
    assert world.graph.item_calls == [1, 5]


async def test_what_is_more_than_one_fetch_is_not_gathered(world: World) -> None:
    catalogue = Catalogue(world.client, world.inference, rehearse, fetch_items=8, gather_seconds=60.0)
    running = asyncio.create_task(catalogue.run())
    nodes = [item_of(f"i{n}") for n in range(30)]
    world.graph.put(*nodes)
    await catalogue.tell([state_of(node) for node in nodes])
    await until(lambda: len(catalogue.current.facts) == 30, 10, "all are there")
    running.cancel()
    assert world.graph.item_calls == [8, 8, 8, 6]


async def test_rows_are_written_in_small_parts_and_in_large_ones_where_more_waits_than_one_fetch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[int] = []
    put = Generation.put

    def noted(generation: Generation, nodes: Sequence[ItemNode]) -> None:
        parts.append(len(nodes))
        put(generation, nodes)

    monkeypatch.setattr(Generation, "put", noted)
    catalogue = Catalogue(world.client, world.inference, rehearse, fetch_items=100, encode_items=64)
    nodes = [item_of(f"i{n}") for n in range(150)]
    world.graph.put(*nodes)
    await catalogue.tell([state_of(node) for node in nodes])
    await catalogue.refresh()
    await catalogue.refresh()
    assert parts == [64, 36, 32, 18]


async def test_while_graph_updater_is_silent_changes_wait_and_then_come(world: World) -> None:
    world.graph.silent = True
    running = asyncio.create_task(world.catalogue.run())
    world.graph.put(item_of("a"))
    await world.catalogue.tell([state_of(item_of("a"))])
    await until(lambda: bool(world.graph.item_calls), 5, "it was asked")
    assert world.catalogue.pending == 1
    world.graph.silent = False
    await until(lambda: world.catalogue.pending == 0, 10, "the item is in the table")
    assert await world.ids("u") == ["a"]
    running.cancel()


async def test_an_answer_too_large_for_a_message_is_asked_for_in_halves(world: World) -> None:
    world.graph.max_items = 3
    await world.stock([item_of(f"i{n}") for n in range(8)])
    assert len(world.catalogue.current.facts) == 8
    world.graph.max_items = 0
    await world.catalogue.tell([state_of(item_of("i1", 2))])
    with pytest.raises(Exception, match="overloaded"):
        await world.catalogue.refresh()


@pytest.mark.parametrize("new", [2, 12], ids=["few", "more than one fetch"])
async def test_what_changes_while_a_model_is_encoded_is_in_its_first_ranking(world: World, new: int) -> None:
    await world.stock([item_of(f"i{n}", users=n) for n in range(20)])
    world.graph.put(user_of("u", ["i0"]))
    world.graph.gate = asyncio.Event()
    calls = len(world.graph.item_calls)
    building = asyncio.create_task(world.publish())
    await until(lambda: len(world.graph.item_calls) > calls, 5, "the build has begun")
    fresh = [item_of("i3", 2, users=99), *(item_of(f"new{n}") for n in range(new)), item_of("i4", 2, available=False)]
    world.graph.put(*fresh)
    await world.catalogue.tell([state_of(node) for node in fresh])
    world.graph.gate.set()
    await building
    generation = world.catalogue.current
    assert generation.table is not None
    assert generation.table.item_ids == generation.facts.item_ids
    assert len(generation.facts) == 20 + new
    assert generation.facts.users[generation.facts.row_of["i3"]] == 99
    shown = await world.ids("u", 40)
    assert set(shown) == {n for n in generation.facts.item_ids if n not in ("i0", "i4")}
    assert world.catalogue.pending == 0


@pytest.mark.parametrize(("broken", "words"), [("users", "users are not finite"), ("items", "vectors are not finite")])
async def test_a_model_that_gives_no_numbers_is_refused_and_the_old_one_stays(
    world: World, broken: str, words: str
) -> None:
    await world.stock([item_of("a"), item_of("b")])
    await world.publish(version="good")
    with pytest.raises(ValueError, match=words):
        await world.publish(DotModel(broken=broken), "bad")
    assert world.catalogue.current.release.version == "good"


async def test_a_build_without_graph_updater_leaves_the_old_one(world: World) -> None:
    await world.stock([item_of("a")])
    await world.publish(version="good")
    world.graph.silent = True
    with pytest.raises(Unavailable):
        await world.publish(version="next")
    assert world.catalogue.current.release.version == "good"


async def test_rows_are_encoded_again_when_they_change_and_once_only(world: World) -> None:
    model = DotModel()
    await world.stock([item_of("a"), item_of("b")])
    await world.publish(model)
    model.encoded.clear()
    await world.stock([item_of("b", 2), item_of("c")])
    table = world.catalogue.current.table
    assert sorted(model.encoded) == ["b", "c"]
    assert table is not None
    assert table.item_ids == ["a", "b", "c"] == world.catalogue.current.facts.item_ids


async def test_an_item_moves_between_categories(world: World) -> None:
    await world.stock([item_of("a", categories=["x", "y"])])
    await world.stock([item_of("a", 2, categories=["y", "z"])])
    assert await world.ids("u", categories=("x",)) == []
    assert await world.ids("u", categories=("z",)) == ["a"]


async def test_an_item_that_breaks_the_model_keeps_no_other_out(world: World) -> None:
    await world.stock([item_of("a")])
    await world.publish()
    await world.stock([item_of("b"), item_of("poison"), item_of("c")])
    assert world.catalogue.current.facts.item_ids == ["a", "b", "c"]
    assert world.catalogue.current.table is not None
    assert world.catalogue.current.table.item_ids == ["a", "b", "c"]


async def test_a_row_that_is_no_number_any_more_stays_as_it_was(world: World) -> None:
    model = DotModel()
    await world.stock([item_of("a"), item_of("b")])
    await world.publish(model)
    model.broken = "items"
    await world.stock([item_of("a", 2), item_of("c")])
    generation = world.catalogue.current
    assert generation.facts.versions == [1, 1]
    assert generation.table is not None
    assert generation.table.item_ids == ["a", "b"]
    assert generation.table.vectors.isfinite().all()


async def test_new_and_changed_items_are_written_into_the_served_table(world: World) -> None:
    await world.stock([item_of(f"i{number}") for number in range(20)])
    await world.publish()
    table, codes = world.catalogue.current.table, world.catalogue.current.codes
    await world.stock([item_of("i3", 2), item_of("new")])
    assert world.catalogue.current.table is table
    assert world.catalogue.current.codes is codes
    assert table is not None
    assert codes is not None
    assert len(table) == len(codes) == len(world.catalogue.current.facts) == 21
    held = REGISTRY.get_sample_value("finestream_ranking_table_bytes")
    assert held == world.catalogue.current.table_bytes >= 21 * (16 * 4 + 16)
