"""The users handler: facts in, states and edges out, in an order that a crash cannot harm."""

import asyncio

import numpy as np
import pytest
from prometheus_client import REGISTRY

from shared import topics
from shared.errors import Unavailable
from shared.events import Erasure, InteractionEdge, ReviewEdge, Source
from shared.graph import fold
from shared.graph.state import MAX_REVIEWS, UserState
from tests.services.graph_updater.building import Built, build
from tests.services.graph_updater.doubles import BASE, MemoryStore, Recorder, click, deliver, opinions, pair, semantics


def edges(built: Built) -> list[InteractionEdge | ReviewEdge]:
    return [e for e in built.producer.of(topics.ITEM_EDGES) if isinstance(e, InteractionEdge | ReviewEdge)]


async def to_items(built: Built) -> None:
    """Deliver the edges sent so far to the items handler."""
    await built.graph.on_items([deliver(edge, n) for n, edge in enumerate(edges(built))])


async def test_a_batch_is_one_write_of_the_folded_states_and_one_edge_a_fact() -> None:
    built = build()
    facts = [click(1), click(2, user="v"), opinions(3), click(4)]
    assert await built.graph.on_users([deliver(f, n) for n, f in enumerate(facts)]) == []
    assert built.store.puts == [("users", ["u", "v"])]
    assert fold.same_user(built.user(), fold.fold_user(UserState("u"), [click(1), opinions(3), click(4)]))
    assert built.user().positions == {topics.INTERACTIONS: (0, 3), topics.REVIEWS: (0, 3)}
    assert [type(edge) for edge in edges(built)] == [InteractionEdge, ReviewEdge, InteractionEdge, InteractionEdge]
    assert [(edge.source.topic, edge.source.offset) for edge in edges(built)] == [
        (topics.INTERACTIONS, 0), (topics.REVIEWS, 3), (topics.INTERACTIONS, 3), (topics.INTERACTIONS, 1),
    ]  # fmt: skip


async def test_versions_grow_by_one_a_write_and_what_changes_nothing_is_not_written() -> None:
    built = build()
    await built.graph.on_users([deliver(click(1), 0), deliver(click(2), 1)])
    await built.graph.on_users([deliver(click(3), 2)])
    await built.graph.on_users([deliver(click(3), 2)])
    assert built.user().version == 2
    assert len(built.store.puts) == 2
    assert len(edges(built)) == 4, "edges are published always: whether they arrived the first time is not known"
    await built.graph.on_users([deliver(click(3), 9)])
    assert (built.user().version, built.user().positions) == (3, {topics.INTERACTIONS: (0, 9)})


async def test_a_store_that_does_not_answer_leaves_nothing_behind_in_memory() -> None:
    built = build()
    await built.graph.on_users([deliver(click(1), 0)])
    built.store.fails = 1
    with pytest.raises(Unavailable):
        await built.graph.on_users([deliver(click(2), 1)])
    held = (await built.graph.users.read(["u"]))["u"]
    assert [slot.event_id for slot in held.interactions] == ["e1"]
    await built.graph.on_users([deliver(click(2), 1)])
    assert [slot.event_id for slot in built.user().interactions] == ["e2", "e1"]


async def test_edges_that_kafka_did_not_take_are_sent_by_the_repeat_though_the_state_was_written() -> None:
    built = build(producer=Recorder([], fails=1))
    with pytest.raises(Unavailable):
        await built.graph.on_users([deliver(click(1))])
    again = build(built.store, built.producer)
    await again.graph.on_users([deliver(click(1))])
    assert [edge.item_id for edge in edges(again)] == ["i"]


async def test_blanks_that_kafka_did_not_take_are_sent_by_the_repeat_though_the_erasure_was_written() -> None:
    built = build()
    await built.graph.on_users([deliver(opinions(1))])
    await to_items(built)
    built.producer.fails = 1
    erasing = [deliver(Erasure(user_id="u", erased_at=BASE + 10), 1), deliver(click(2), 2)]
    with pytest.raises(Unavailable):
        await built.graph.on_users(erasing)
    assert built.user().reviews == ()
    again = build(built.store, built.producer)
    await again.graph.on_users(erasing)
    await to_items(again)
    (slot,) = again.item().reviews
    assert (slot.erased_at, slot.pairs) == (BASE + 10, ())


async def test_reviews_on_their_way_to_their_items_while_their_user_is_forgotten_end_blank() -> None:
    built = build()
    reviews = [opinions(n, item=f"i{n}") for n in range(MAX_REVIEWS + 3)]  # three that the user's state lets go
    await built.graph.on_users([deliver(review, n) for n, review in enumerate(reviews)])
    on_their_way = edges(built)
    built.producer.sent.clear()
    await built.graph.on_users([deliver(Erasure(user_id="u", erased_at=BASE + 1000))])
    known = edges(built)
    built.producer.sent.clear()
    assert len(known) == MAX_REVIEWS
    await built.graph.on_items([deliver(edge, n) for n, edge in enumerate([*known, *on_their_way])])
    assert len(edges(built)) == len(reviews)
    await to_items(built)
    for n in range(len(reviews)):
        (slot,) = built.item(f"i{n}").reviews
        assert (slot.erased_at, slot.pairs, slot.vector) == (BASE + 1000, (), b"")


async def test_a_review_of_after_its_users_erasure_reaches_its_item_as_it_is() -> None:
    built = build()
    await built.graph.on_users([deliver(Erasure(user_id="u", erased_at=BASE + 10)), deliver(opinions(50), 1)])
    await to_items(built)
    assert edges(built)[-1].erased_at == 0  # type: ignore[union-attr]
    (slot,) = built.item().reviews
    assert slot.pairs


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (opinions(1, pairs=[pair("taste")]), "'taste' is no attribute of space tiny"),
        (opinions(1, pairs=[pair(vector=b"123")]), "3 numbers; space tiny has 2"),
        (opinions(1, vector=b"12345"), "5 numbers; space tiny has 4"),
        (opinions(1, space="other"), "'other' is not 'tiny'"),
    ],
)
async def test_what_does_not_fit_the_space_is_refused_and_the_rest_goes_on(bad: object, words: str) -> None:
    built = build()
    delivery = deliver(bad)  # type: ignore[arg-type]
    (refused,) = await built.graph.on_users([deliver(click(1)), delivery, deliver(click(2), 1)])
    assert (refused.delivery, refused.reason) == (delivery, "out_of_bounds")
    assert words in refused.message
    assert len(built.user().interactions) == 2
    assert built.user().reviews == ()


async def test_an_erasure_blanks_the_users_slots_and_those_that_only_the_items_know() -> None:
    built = build()
    reviews = [opinions(n, item=f"i{n}") for n in range(MAX_REVIEWS + 3)]
    await built.graph.on_users([deliver(review, n) for n, review in enumerate(reviews)])
    await to_items(built)
    assert len(built.user().reviews) == MAX_REVIEWS
    built.producer.sent.clear()
    await built.graph.on_users([deliver(Erasure(user_id="u", erased_at=BASE + 1000))])
    assert {edge.item_id for edge in edges(built)} == {f"i{n}" for n in range(MAX_REVIEWS + 3)}
    await to_items(built)
    for n in range(MAX_REVIEWS + 3):
        (slot,) = built.item(f"i{n}").reviews
        assert (slot.erased_at, slot.pairs, slot.vector) == (BASE + 1000, (), b"")
        assert built.store.rows["items"][f"i{n}"].fields.get("reviewers", []) == []
    assert (built.user().reviews, built.user().erased_at) == ((), BASE + 1000)
    assert len(built.store.rows["users"]["u"].vectors["opinion"]) == 0


async def test_a_review_of_after_the_erasure_is_not_blanked() -> None:
    built = build()
    await built.graph.on_users([deliver(opinions(1, item="old")), deliver(opinions(50, item="new"))])
    built.producer.sent.clear()
    await built.graph.on_users([deliver(Erasure(user_id="u", erased_at=BASE + 10))])
    assert [edge.item_id for edge in edges(built)] == ["old"]
    assert [slot.other_id for slot in built.user().reviews] == ["new"]


async def test_opinions_that_come_after_the_erasure_of_their_user_reach_the_item_blank() -> None:
    built = build()
    await built.graph.on_users([deliver(Erasure(user_id="u", erased_at=BASE + 10))])
    await built.graph.on_users([deliver(opinions(1))])
    (edge,) = edges(built)
    assert isinstance(edge, ReviewEdge)
    assert (edge.erased_at, edge.pairs, edge.vector, edge.ts) == (BASE + 10, [], b"", BASE + 1)


async def test_items_are_equal_whether_the_erasure_came_before_or_after_the_review() -> None:
    review, erasure = deliver(opinions(1), 0), deliver(Erasure(user_id="u", erased_at=BASE + 10), 1)
    items = []
    for batches in ([[review], [erasure]], [[erasure], [review]], [[erasure, review]], [[review, erasure]]):
        built = build()
        for batch in batches:
            await built.graph.on_users(batch)
        await to_items(built)
        items.append(built.item())
    assert all(fold.same_item(item, items[0]) for item in items)


async def test_a_crash_after_an_erasure_was_written_loses_no_blank() -> None:
    built = build()
    await built.graph.on_users([deliver(opinions(1))])
    on_its_way = edges(built)
    built.producer.sent.clear()
    erasure = deliver(Erasure(user_id="u", erased_at=BASE + 10), 1)
    built.producer.fails = 1
    with pytest.raises(Unavailable):
        await built.graph.on_users([erasure])
    again = build(built.store, built.producer)
    await again.graph.on_users([erasure])
    await again.graph.on_items([deliver(edge) for edge in on_its_way])
    assert [(edge.item_id, getattr(edge, "erased_at", 0.0)) for edge in edges(again)] == [("i", BASE + 10)]


async def test_freshness_is_measured_from_the_append_to_the_stores_acknowledgement() -> None:
    def count(kind: str) -> float:
        return REGISTRY.get_sample_value("finestream_event_to_visible_seconds_count", {"kind": kind}) or 0.0

    before = {kind: count(kind) for kind in ("interaction", "review")}
    built = build(store=MemoryStore())
    built.store.fails = 1
    batch = [deliver(click(1)), deliver(click(2), 1), deliver(opinions(3))]
    with pytest.raises(Unavailable):
        await built.graph.on_users(batch)
    assert {kind: count(kind) for kind in before} == before
    await built.graph.on_users(batch)
    assert count("interaction") == before["interaction"] + 2
    assert count("review") == before["review"] + 1


async def test_two_writers_of_one_user_lose_nothing() -> None:
    store = MemoryStore(exclusive=False)
    left, right = build(store), build(store)
    await left.graph.on_users([deliver(click(1), 0)])
    await right.graph.on_users([deliver(click(2), 1)])
    await left.graph.on_users([deliver(click(3), 2)])  # its cache is behind
    await right.graph.on_users([deliver(opinions(4), 3)])
    expected = fold.fold_user(UserState("u"), [click(1), click(2), click(3), opinions(4)])
    assert fold.same_user(left.user(), expected)
    for built in (left, right):
        assert fold.same_user((await built.graph.users.read(["u"]))["u"], expected)


async def test_writers_at_the_same_time_lose_nothing() -> None:
    store = MemoryStore(exclusive=False)
    writers = [build(store) for _ in range(4)]
    facts = [click(n) for n in range(40)]
    await asyncio.gather(*(writers[n % 4].graph.on_users([deliver(f, n)]) for n, f in enumerate(facts)))
    assert fold.same_user(writers[0].user(), fold.fold_user(UserState("u"), facts))


async def test_a_users_vector_is_the_mean_of_its_items_decayed_by_age() -> None:
    built = build(half_life_days=1.0)
    await built.graph.on_items([
        deliver(semantics("a", b"\x7f\x00\x00\x00")), deliver(semantics("b", b"\x00\x7f\x00\x00"), 1)
    ])  # fmt: skip
    day = 86_400.0
    await built.graph.on_users([deliver(click(1, item="a", ts=BASE)), deliver(click(2, item="b", ts=BASE + day), 1)])
    vector = built.store.rows["users"]["u"].vectors["semantic"]
    np.testing.assert_allclose(vector, np.array([0.5, 1.0, 0, 0]) / np.sqrt(1.25), atol=1e-5)


async def test_a_users_opinion_vector_is_the_mean_of_each_attribute() -> None:
    built = build()
    up, down = b"\x7f\x00", b"\x00\x7f"
    await built.graph.on_users([
        deliver(opinions(1, pairs=[pair("sound", up), pair("price", down)])),
        deliver(opinions(2, pairs=[pair("sound", down)]), 1),
    ])  # fmt: skip
    vector = built.store.rows["users"]["u"].vectors["opinion"]
    np.testing.assert_allclose(vector, [0.5, 0.5, 0, 1, 0, 0], atol=1e-5)


async def test_a_user_whose_items_had_no_vector_yet_gets_one_from_the_sweep() -> None:
    built = build()
    await built.graph.on_users([deliver(click(1, item="late"))])
    assert len(built.store.rows["users"]["u"].vectors["semantic"]) == 0
    far = 1e9
    assert await built.graph.sweep.step(far) == 1
    assert len(built.store.rows["users"]["u"].vectors["semantic"]) == 0
    await built.graph.on_items([deliver(semantics("late"))])
    assert await built.graph.sweep.step(2 * far) == 1
    np.testing.assert_allclose(built.store.rows["users"]["u"].vectors["semantic"], [1, 0, 0, 0], atol=1e-5)
    assert [slot.item_id for slot in built.user().interactions] == ["late"]
    assert await built.graph.sweep.step(3 * far) == 0


async def test_many_clicks_move_the_users_vector_once_and_an_erasure_removes_it_at_once() -> None:
    built = build()
    await built.graph.on_items([deliver(semantics("a")), deliver(semantics("b", b"\x00\x7f\x00\x00"), 1)])
    await built.graph.on_users([deliver(click(1, item="a", ts=BASE))])
    for n in range(2, 5):
        await built.graph.on_users([deliver(click(n, item="b", ts=BASE), n)])
    vectors = built.store.rows["users"]["u"].vectors
    np.testing.assert_allclose(vectors["semantic"], [1, 0, 0, 0], atol=1e-5)
    assert await built.graph.sweep.step(1e9) == 1
    vectors = built.store.rows["users"]["u"].vectors
    np.testing.assert_allclose(vectors["semantic"], np.array([1, 3, 0, 0]) / np.sqrt(10), atol=1e-2)
    assert await built.graph.sweep.step(2e9) == 0
    await built.graph.on_users([deliver(Erasure(user_id="u", erased_at=BASE + 9), 9)])
    assert len(built.store.rows["users"]["u"].vectors["semantic"]) == 0
    await built.graph.sweep.step(3e9)
    assert len(built.store.rows["users"]["u"].vectors["semantic"]) == 0


async def test_the_sweep_gives_a_user_up_after_a_few_tries() -> None:
    built = build()
    await built.graph.on_users([deliver(click(1, item="never"))])
    calls = 0
    for step in range(1, 30):
        before = REGISTRY.get_sample_value("finestream_graph_updater_dirty_users")
        await built.graph.sweep.step(step * 1e9)
        calls += bool(before)
    assert calls == 8
    assert REGISTRY.get_sample_value("finestream_graph_updater_dirty_users") == 0


async def test_positions_of_opinions_are_those_of_the_review() -> None:
    built = build()
    await built.graph.on_users([deliver(opinions(1, source=Source(topics.REVIEWS, 3, 77, BASE)), offset=5)])
    assert built.user().positions == {topics.REVIEWS: (3, 77)}
