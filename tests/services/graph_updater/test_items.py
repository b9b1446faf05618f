"""The items handler and the announcer: no change stays unannounced, and no item is announced too often."""

import math

import numpy as np
import pytest

from shared import topics
from shared.errors import Unavailable
from shared.events import InteractionEdge, ItemState, Source
from shared.graph import fold
from shared.graph.state import ItemNode
from tests.services.graph_updater.building import Built, build
from tests.services.graph_updater.doubles import (
    BASE,
    MemoryStore,
    click,
    deliver,
    item,
    opinions,
    pair,
    semantics,
)

SOURCE = Source(topics.INTERACTIONS, 0, 0, BASE + 0.5)


def edge(n: int, item_id: str = "i") -> InteractionEdge:
    made = fold.edges_of(click(n, user=f"u{n}", item=item_id), SOURCE)
    assert isinstance(made, InteractionEdge)
    return made


def states(built: Built) -> list[ItemState]:
    return [state for state in built.producer.of(topics.ITEM_STATES) if isinstance(state, ItemState)]


async def test_a_batch_is_one_write_and_one_announcement_an_item() -> None:
    built = build()
    await built.graph.on_items([
        deliver(item(), 4, appended_at=BASE + 9), deliver(edge(1), 5), deliver(item("j", available=False), 6)
    ])  # fmt: skip
    assert built.store.puts == [("items", ["i", "j"])]
    assert fold.same_item(built.item(), fold.fold_item(ItemNode("i"), [item(), edge(1)]))
    assert built.item().positions == {topics.ITEMS: (0, 4)}
    assert states(built) == [
        ItemState(item_id="i", version=1, available=True, changes=[("item", BASE + 9), ("interaction", BASE + 0.5)]),
        ItemState(item_id="j", version=1, available=False, changes=[("item", BASE)]),
    ]


async def test_the_position_of_an_item_is_that_of_its_description_not_of_its_embedding() -> None:
    built = build()
    await built.graph.on_items([deliver(semantics(source=Source(topics.ITEMS, 0, 7, BASE)))])
    assert built.item().positions == {}


async def test_within_its_second_an_item_is_deferred_and_then_announced_once() -> None:
    built = build(announce_seconds=60.0)
    for n in range(1, 6):
        await built.graph.on_items([deliver(edge(n), n)])
    assert [state.version for state in states(built)] == [1]
    assert built.store.rows["items"]["i"].fields["due"] == "yes"
    await built.graph.announcer.flush(0.0)
    assert len(states(built)) == 1, "its second is not over"
    await built.graph.announcer.flush(math.inf)
    assert [(state.version, len(state.changes)) for state in states(built)] == [(1, 1), (5, 4)]
    assert "due" not in built.store.rows["items"]["i"].fields
    await built.graph.announcer.flush(math.inf)
    assert len(states(built)) == 2


async def test_the_changes_of_one_announcement_are_bounded() -> None:
    built = build(announce_seconds=60.0)
    for start in range(0, 400, 10):
        await built.graph.on_items([deliver(edge(n), n) for n in range(start, start + 10)])
    await built.graph.announcer.flush(math.inf)
    assert len(states(built)[-1].changes) == 64


async def test_a_crash_between_write_and_announcement_is_made_good_by_the_repeat() -> None:
    built = build()
    built.producer.fails = 1
    with pytest.raises(Unavailable):
        await built.graph.on_items([deliver(edge(1))])
    again = build(built.store, built.producer)
    await again.graph.on_items([deliver(edge(1))])
    assert [(state.version, state.changes) for state in states(again)] == [(1, [("interaction", BASE + 0.5)])]
    await again.graph.on_items([deliver(edge(1))])
    assert len(states(again)) == 1, "a repeat that changes nothing is announced only where it may not have been"


async def test_a_kafka_that_was_away_loses_no_announcement() -> None:
    built = build()
    built.producer.fails = 1
    batch = [deliver(edge(1)), deliver(edge(2, "j"), 1)]
    with pytest.raises(Unavailable):
        await built.graph.on_items(batch)
    await built.graph.on_items(batch)
    assert [(state.item_id, state.version) for state in states(built)] == [("i", 1), ("j", 1)]


async def test_a_crash_with_deferred_items_is_made_good_at_the_next_start() -> None:
    built = build(announce_seconds=60.0)
    for n in range(1, 4):
        await built.graph.on_items([deliver(edge(n), n), deliver(edge(n, "j"), n + 10)])
    again = build(built.store, built.producer)
    assert await again.graph.announcer.recover() == 2
    assert [(state.item_id, state.version) for state in states(again)[2:]] == [("i", 3), ("j", 3)]
    assert await again.graph.announcer.recover() == 0


async def test_a_deferred_item_stays_deferred_while_kafka_is_away() -> None:
    built = build(announce_seconds=60.0)
    for n in range(1, 3):
        await built.graph.on_items([deliver(edge(n), n)])
    built.producer.fails = 1
    with pytest.raises(Unavailable):
        await built.graph.announcer.flush(math.inf)
    await built.graph.announcer.flush(math.inf)
    assert [state.version for state in states(built)] == [1, 2]


async def test_what_does_not_fit_the_space_is_refused() -> None:
    built = build()
    bad = [deliver(semantics(vector=b"123")), deliver(semantics(space="other"), 1), deliver(semantics(vector=b""), 2)]
    refused = await built.graph.on_items([*bad, deliver(item(), 3)])
    assert [(r.delivery, r.reason) for r in refused] == [(delivery, "out_of_bounds") for delivery in bad]
    assert built.item().semantics is None


async def test_an_item_without_a_text_is_known_by_the_mean_of_its_reviews() -> None:
    built = build()
    reviews = [opinions(1, vector=b"\x7f\x00\x00\x00", pairs=[pair("price")]), opinions(2, vector=b"\x00\x7f\x00\x00")]
    await built.graph.on_items([deliver(fold.edges_of(r, SOURCE), n) for n, r in enumerate(reviews)])
    vectors = built.store.rows["items"]["i"].vectors
    np.testing.assert_allclose(vectors["semantic"], np.array([1, 1, 0, 0]) / np.sqrt(2), atol=1e-5)
    np.testing.assert_allclose(vectors["opinion"], [1, 0, 1, 0, 0, 0], atol=1e-5)
    await built.graph.on_items([deliver(semantics(vector=b"\x00\x00\x7f\x00"), 9)])
    np.testing.assert_allclose(built.store.rows["items"]["i"].vectors["semantic"], [0, 0, 1, 0], atol=1e-5)


async def test_two_writers_of_one_item_lose_nothing() -> None:
    store = MemoryStore(exclusive=False)
    left, right = build(store), build(store)
    for n in range(6):
        await (left if n % 2 else right).graph.on_items([deliver(edge(n), n)])
    assert fold.same_item(left.item(), fold.fold_item(ItemNode("i"), [edge(n) for n in range(6)]))
