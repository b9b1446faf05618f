"""The fold is a join: order, repeats and batching cannot matter, and nothing grows beyond its bound."""

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events import Erasure, Interaction, InteractionEdge, Item, Opinions, Pair, ReviewEdge, Source
from shared.graph import fold
from shared.graph.fold import ItemFact, UserFact
from shared.graph.state import (
    BUCKET_HASHES,
    MAX_INTERACTIONS,
    MAX_PAIRS_PER_REVIEW,
    MAX_POPULARITY_BUCKETS,
    MAX_REVIEWS,
    TOTAL_HASHES,
    ItemNode,
    UserState,
    glance,
    item_from_bytes,
    to_bytes,
    user_from_bytes,
    watermark,
)
from tests.shared.graph.histories import BASE, ITEM, USER, item_facts, user_facts

SOURCE = Source("reviews", 0, 1, BASE)
State = TypeVar("State")
Fact = TypeVar("Fact")
# A small list finds ties; a long one, drawn from a seed, finds evictions.
user_histories = st.lists(user_facts, max_size=150)
item_histories = st.lists(item_facts, max_size=150)
shuffles = st.randoms(use_true_random=False)
examples = settings(max_examples=60, deadline=None)


def user_of(facts: Sequence[UserFact]) -> UserState:
    return fold.fold_user(UserState(USER), facts)


def item_of(facts: Sequence[ItemFact]) -> ItemNode:
    return fold.fold_item(ItemNode(ITEM), facts)


def replayed(
    facts: Sequence[Fact], join: Callable[[State, Sequence[Fact]], State], empty: State, chance: random.Random
) -> State:
    """The facts in another order, some of them again, in batches of any size."""
    shuffled = [*facts, *(fact for fact in facts if chance.random() < 0.4)]
    chance.shuffle(shuffled)
    state = empty
    while shuffled:
        size = chance.randint(1, 12)
        batch, shuffled = shuffled[:size], shuffled[size:]
        state = join(state, batch)
    return state


@examples
@given(user_histories, shuffles)
def test_any_order_repeat_and_batching_gives_the_same_user(facts: list[UserFact], chance: random.Random) -> None:
    assert fold.same_user(replayed(facts, fold.fold_user, UserState(USER), chance), user_of(facts))


@examples
@given(item_histories, shuffles)
def test_any_order_repeat_and_batching_gives_the_same_item(facts: list[ItemFact], chance: random.Random) -> None:
    assert fold.same_item(replayed(facts, fold.fold_item, ItemNode(ITEM), chance), item_of(facts))


@pytest.mark.parametrize("seed", range(40))
def test_long_histories_in_any_order_give_the_same_states(seed: int) -> None:
    chance = random.Random(seed)
    users, items = long_user_history(chance, 600), long_item_history(chance, 900)
    assert fold.same_user(replayed(users, fold.fold_user, UserState(USER), chance), user_of(users))
    assert fold.same_item(replayed(items, fold.fold_item, ItemNode(ITEM), chance), item_of(items))


@examples
@given(user_histories)
def test_a_user_never_exceeds_its_bounds(facts: list[UserFact]) -> None:
    user = user_of(facts)
    assert len(user.interactions) <= MAX_INTERACTIONS
    assert len(user.reviews) <= MAX_REVIEWS
    assert all(len(slot.pairs) <= MAX_PAIRS_PER_REVIEW for slot in user.reviews)
    assert all(slot.ts > user.erased_at for slot in (*user.interactions, *user.reviews))
    assert watermark(user) == max([slot.ts for slot in (*user.interactions, *user.reviews)], default=0.0)
    assert user_from_bytes(to_bytes(user)) == user


@examples
@given(user_histories, st.integers(0, 2**40))
def test_a_glance_at_a_users_bytes_tells_what_their_state_does(facts: list[UserFact], version: int) -> None:
    user = msgspec.structs.replace(user_of(facts), version=version)
    assert glance(to_bytes(user)) == (version, watermark(user))
    first_fields = msgspec.msgpack.encode(msgspec.msgpack.decode(to_bytes(user))[:3])  # as an older writer's
    assert glance(first_fields) == (0, watermark(user))


@examples
@given(item_histories)
def test_an_item_never_exceeds_its_bounds(facts: list[ItemFact]) -> None:
    item = item_of(facts)
    assert len(item.reviews) <= MAX_REVIEWS
    assert all(len(slot.pairs) <= MAX_PAIRS_PER_REVIEW for slot in item.reviews)
    assert len(item.popularity) <= MAX_POPULARITY_BUCKETS
    assert all(len(hashes) <= BUCKET_HASHES for hashes in item.popularity.values())
    assert len(item.popularity_total) <= TOTAL_HASHES
    assert item_from_bytes(to_bytes(item)) == item


def test_bounds_are_reached_by_long_histories() -> None:
    chance = random.Random(1)
    user, item = user_of(long_user_history(chance, 3000)), item_of(long_item_history(chance, 24_000))
    assert (len(user.interactions), len(user.reviews)) == (MAX_INTERACTIONS, MAX_REVIEWS)
    assert len(item.reviews) == MAX_REVIEWS
    assert len(item.popularity) == MAX_POPULARITY_BUCKETS
    assert len(item.popularity_total) == TOTAL_HASHES
    assert max(map(len, item.popularity.values())) == BUCKET_HASHES


@examples
@given(user_histories, user_histories, user_histories)
def test_merging_users_is_a_join_and_agrees_with_folding(
    a: list[UserFact], b: list[UserFact], c: list[UserFact]
) -> None:
    x, y, z = user_of(a), user_of(b), user_of(c)
    check_join(fold.merge_users, fold.same_user, x, y, z)
    assert fold.same_user(fold.merge_users(x, y), user_of([*a, *b]))
    assert fold.same_user(fold.fold_user(fold.merge_users(x, y), c), user_of([*a, *b, *c]))


@examples
@given(item_histories, item_histories, item_histories)
def test_merging_items_is_a_join_and_agrees_with_folding(
    a: list[ItemFact], b: list[ItemFact], c: list[ItemFact]
) -> None:
    x, y, z = item_of(a), item_of(b), item_of(c)
    check_join(fold.merge_items, fold.same_item, x, y, z)
    assert fold.same_item(fold.merge_items(x, y), item_of([*a, *b]))
    assert fold.same_item(fold.fold_item(fold.merge_items(x, y), c), item_of([*a, *b, *c]))


@pytest.mark.parametrize("seed", range(20))
def test_merging_long_histories_agrees_with_folding_them(seed: int) -> None:
    chance = random.Random(seed)
    users, items = long_user_history(chance, 600), long_item_history(chance, 900)
    cut = chance.randrange(500)
    check_join(fold.merge_users, fold.same_user, user_of(users[:cut]), user_of(users[cut:]), user_of(users[50:90]))
    check_join(fold.merge_items, fold.same_item, item_of(items[:cut]), item_of(items[cut:]), item_of(items[50:90]))
    assert fold.same_user(fold.merge_users(user_of(users[:cut]), user_of(users[cut:])), user_of(users))
    assert fold.same_item(fold.merge_items(item_of(items[:cut]), item_of(items[cut:])), item_of(items))


def check_join(merge: Callable[[Any, Any], Any], same: Callable[[Any, Any], bool], x: Any, y: Any, z: Any) -> None:
    assert same(merge(x, y), merge(y, x)), "commutative"
    assert same(merge(x, merge(y, z)), merge(merge(x, y), z)), "associative"
    assert same(merge(x, x), x), "idempotent"
    assert same(merge(x, merge(x, y)), merge(x, y)), "absorbing"


def test_an_edit_of_before_the_erasure_does_not_return_after_its_blank_was_evicted() -> None:
    first, edit = review("r", ts=BASE), review("r", ts=BASE + 20)
    blank = fold.blank_of("u-r", ITEM, "r", BASE, BASE + 50, SOURCE)
    others = [review(f"o{n}", ts=BASE + 10 + n / 100) for n in range(MAX_REVIEWS)]
    item = ItemNode(ITEM)
    for fact in [first, blank, *others, edit]:
        item = fold.fold_item(item, [fact])
    assert fold.same_item(item, item_of([first, edit, blank, *others]))
    assert not any(slot.pairs for slot in item.reviews if slot.review_id == "r")


def test_a_review_of_after_the_erasure_takes_its_slot_back() -> None:
    blank = fold.blank_of("u-r", ITEM, "r", BASE, BASE + 50, SOURCE)
    (slot,) = item_of([blank, review("r", ts=BASE + 51)]).reviews
    assert slot.pairs
    assert not slot.erased_at


def test_an_edge_depends_on_the_fact_alone_and_hides_who_clicked() -> None:
    click = Interaction(event_id="e", user_id=USER, item_id=ITEM, ts=BASE)
    edge = fold.edges_of(click, SOURCE)
    assert isinstance(edge, InteractionEdge)
    assert USER.encode() not in to_bytes(item_of([edge]))
    found = opinion("r", BASE)
    assert fold.edges_of(found, SOURCE) == ReviewEdge(
        item_id="i", review_id="r", user_id=USER, ts=BASE, rating=0.0, extractor_version=1,
        pairs=found.pairs, vector=b"", source=SOURCE,
    )  # fmt: skip


def test_a_description_of_before_there_were_prices_reads_as_one_without() -> None:
    held = fold.fold_item(ItemNode("i"), [Item(item_id="i", ts=1e9, title="t", brand="b", categories=["c"])])
    assert held.facts is not None
    assert held.facts.price is None
    older = msgspec.msgpack.decode(to_bytes(held))
    older[1].pop()
    assert item_from_bytes(msgspec.msgpack.encode(older)) == held


def test_a_price_comes_and_goes_with_the_newest_description() -> None:
    priced = Item(item_id="i", ts=1e9, price=9.99)
    for facts, price in (([priced], 9.99), ([priced, Item(item_id="i", ts=1e9 + 1)], None)):
        held = fold.fold_item(ItemNode("i"), facts)
        assert held.facts is not None
        assert held.facts.price == price


def test_a_fact_of_another_node_is_refused() -> None:
    with pytest.raises(ValueError, match="another user"):
        fold.fold_user(UserState("other"), [opinion("r", BASE)])
    with pytest.raises(ValueError, match="another item"):
        fold.fold_item(ItemNode("other"), [review("r", ts=BASE)])


def test_positions_name_the_newest_offset_of_each_topic_in_any_order() -> None:
    facts = [opinion(f"r{n}", BASE) for n in range(3)]
    sources = [Source("reviews", 2, n, BASE) for n in (7, 9, 8)]
    whole = fold.fold_user(UserState(USER), facts, sources)
    assert whole.positions == {"reviews": (2, 9)}
    one_by_one = UserState(USER)
    for fact, source in zip(facts, sources, strict=True):
        one_by_one = fold.fold_user(one_by_one, [fact], [source])
    assert one_by_one.positions == whole.positions
    assert fold.merge_users(whole, UserState(USER)).positions == whole.positions


def test_distinct_users_are_exact_below_the_sketch_size_and_close_beyond() -> None:
    def seen(count: int) -> float:
        edges = [
            fold.edges_of(Interaction(event_id="e", user_id=f"user-{n}", item_id=ITEM, ts=BASE), SOURCE)
            for n in range(count)
        ]
        return fold.distinct_users(item_of([*edges, *edges]).popularity_total)

    assert seen(200) == 200
    assert seen(20_000) == pytest.approx(20_000, rel=0.2)


def pair(chance: random.Random) -> Pair:
    return Pair("sound", "good", bytes([chance.randrange(256)]), 1, 0, 4, "good")


def review(review_id: str, ts: float) -> ReviewEdge:
    found = [Pair("sound", "good", b"a", 1, 0, 4, "good")]
    return ReviewEdge(
        item_id=ITEM, review_id=review_id, user_id=f"u-{review_id}", ts=ts, extractor_version=1,
        pairs=found, source=SOURCE,
    )  # fmt: skip


def opinion(review_id: str, ts: float) -> Opinions:
    return Opinions(
        review_id=review_id, user_id=USER, item_id="i", ts=ts, extractor="x", extractor_version=1, content_hash="h",
        space="s", pairs=[Pair("sound", "good", b"a", 1, 0, 4, "good")], source=SOURCE,
    )  # fmt: skip


def long_user_history(chance: random.Random, count: int) -> list[UserFact]:
    facts: list[UserFact] = []
    for _ in range(count):
        ts = BASE + chance.randrange(count)
        roll = chance.random()
        if roll < 0.5:
            facts.append(
                Interaction(event_id=f"e{chance.randrange(count)}", user_id=USER, item_id=f"i{roll:.2f}", ts=ts)
            )
        elif roll < 0.995:
            facts.append(opinion(f"r{chance.randrange(count // 4)}", ts))
        else:
            facts.append(Erasure(user_id=USER, erased_at=BASE + chance.randrange(count // 2)))
    return facts


def long_item_history(chance: random.Random, count: int) -> list[ItemFact]:
    facts: list[ItemFact] = []
    for _ in range(count):
        ts = BASE + chance.randrange(count)
        roll, name = chance.random(), f"r{chance.randrange(count // 8)}"
        if roll < 0.6:
            facts.append(review(name, ts))
        elif roll < 0.65:
            facts.append(fold.blank_of(f"u-{name}", ITEM, name, ts, ts + chance.randrange(count // 2), SOURCE))
        else:
            click = Interaction(
                event_id="e", user_id=f"u{chance.randrange(count)}", item_id=ITEM,
                ts=ts + chance.choice([0, 0, 0, chance.randrange(20)]) * 30 * 86_400,
            )  # fmt: skip
            facts.append(fold.edges_of(click, SOURCE))
    return facts
