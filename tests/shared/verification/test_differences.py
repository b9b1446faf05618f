"""A live state between two folds is right; what is lost, made up or out of order is found and named."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events import Erasure, InteractionEdge, Item, ItemSemantics, Opinions, ReviewEdge, Source
from shared.graph import fold
from shared.graph.fold import ItemFact, UserFact
from shared.graph.state import MAX_INTERACTIONS, ItemNode, UserState
from shared.verification.differences import ITEMS, USERS, FieldDifference, Kind, differences, is_between
from tests.shared.graph.histories import BASE, ITEM, USER, interactions, item_facts, user_facts
from tests.shared.verification.facts import click, edge, opinions, review_edge

NOWHERE = Source("items", 0, 0, BASE)


def user_of(*facts: UserFact) -> UserState:
    return fold.fold_user(UserState(USER), facts)


def item_of(*facts: ItemFact) -> ItemNode:
    return fold.fold_item(ItemNode(ITEM), facts)


def found(kind: Kind[Any], live: Any, lower: Any, upper: Any | None = None) -> dict[str, FieldDifference]:
    upper = lower if upper is None else upper
    assert not is_between(kind, live, lower, upper)
    return {one.field: one for one in differences(kind, live, lower, upper)}


@given(st.lists(user_facts, max_size=80), st.integers(0, 80), st.integers(0, 80))
def test_a_user_that_has_read_some_of_what_came_meanwhile_is_right(facts: list[UserFact], a: int, b: int) -> None:
    lower, live = sorted((a, b))
    assert is_between(USERS, user_of(*facts[:live]), user_of(*facts[:lower]), user_of(*facts))


@given(st.lists(item_facts, max_size=80), st.integers(0, 80), st.integers(0, 80))
def test_an_item_that_has_read_some_of_what_came_meanwhile_is_right(facts: list[ItemFact], a: int, b: int) -> None:
    lower, live = sorted((a, b))
    assert is_between(ITEMS, item_of(*facts[:live]), item_of(*facts[:lower]), item_of(*facts))


@given(st.lists(user_facts, min_size=1, max_size=80), st.data())
def test_without_traffic_only_the_fold_itself_is_right_of_a_user(facts: list[UserFact], data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, len(facts) - 1))
    check_lost(USERS, user_of(*facts[:lost], *facts[lost + 1 :]), user_of(*facts), fold.same_user)


@given(st.lists(item_facts, min_size=1, max_size=80), st.data())
def test_without_traffic_only_the_fold_itself_is_right_of_an_item(facts: list[ItemFact], data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, len(facts) - 1))
    check_lost(ITEMS, item_of(*facts[:lost], *facts[lost + 1 :]), item_of(*facts), fold.same_item)


def check_lost(kind: Kind[Any], live: Any, whole: Any, same: Any) -> None:
    assert is_between(kind, live, whole, whole) == same(live, whole)
    if not same(live, whole):
        assert any(one.log_only for one in differences(kind, live, whole, whole))
        assert any(one.live_only for one in differences(kind, whole, live, live))


def test_a_lost_interaction_is_named() -> None:
    differs = found(USERS, user_of(click(1)), user_of(click(1), click(2)))
    assert list(differs) == ["interactions"]
    assert differs["interactions"].log_only == ["e2 (click of i, 2020-09-13 12:26:42 UTC)"]
    assert differs["interactions"].live_only == []


def test_a_made_up_interaction_is_named() -> None:
    differs = found(USERS, user_of(click(1), click(2)), user_of(click(1)))
    assert [words.split(" ")[0] for words in differs["interactions"].live_only] == ["e2"]
    assert differs["interactions"].log_only == []


def test_a_lost_review_and_a_lost_edit_are_named() -> None:
    edit: Opinions = msgspec.structs.replace(opinions(1), ts=BASE + 5)
    assert found(USERS, user_of(), user_of(opinions(1)))["reviews"].log_only[0].startswith("r1 (of i, ")
    differs = found(USERS, user_of(opinions(1)), user_of(opinions(1), edit))
    assert ["12:26:45" in words for words in differs["reviews"].log_only] == [True]


def test_a_lost_erasure_and_what_it_should_have_removed_are_named() -> None:
    erasure = Erasure(user_id=USER, erased_at=BASE + 9)
    differs = found(USERS, user_of(click(1)), user_of(click(1), erasure))
    assert differs["erased_at"].log_only == ["2020-09-13 12:26:49 UTC"]
    kept = msgspec.structs.replace(user_of(erasure), interactions=user_of(click(1)).interactions)
    assert [words.split(" ")[0] for words in found(USERS, kept, user_of(erasure))["interactions"].live_only] == ["e1"]


def test_a_lost_edge_of_an_item_is_named_as_popularity_and_as_the_time_it_was_seen() -> None:
    differs = found(ITEMS, item_of(edge(1)), item_of(edge(1), edge(2)))
    assert set(differs) == {"popularity", "last_seen"}
    assert differs["popularity"].log_only == [
        "user hash 0000000000000002 of all time", "user hash 0000000000000002 in the 30 days from 2020-09-05",
    ]  # fmt: skip


FACT_OF: list[tuple[str, ItemFact]] = [
    ("facts", Item(item_id=ITEM, ts=BASE, title="Lamp")),
    ("semantics", ItemSemantics(
        item_id=ITEM, ts=BASE, space="s", extractor_version=1, content_hash="h", vector=b"v", source=NOWHERE,
    )),
    ("reviews", review_edge(0)),
]  # fmt: skip


@pytest.mark.parametrize(("field", "fact"), FACT_OF, ids=[field for field, _ in FACT_OF])
def test_each_other_part_of_an_item_is_named(field: str, fact: Item | ItemSemantics | ReviewEdge) -> None:
    seen: InteractionEdge = edge(0)
    assert found(ITEMS, item_of(seen), item_of(seen, fact))[field].log_only
    assert found(ITEMS, item_of(seen, fact), item_of(seen))[field].live_only


def test_more_than_the_bound_and_a_wrong_order_are_told() -> None:
    full = user_of(*(click(n) for n in range(MAX_INTERACTIONS)))
    newer = user_of(*(click(n) for n in range(1, MAX_INTERACTIONS + 1)))
    over = msgspec.structs.replace(newer, interactions=(*newer.interactions, full.interactions[-1]))
    assert [words.split(" ")[0] for words in found(USERS, over, newer)["interactions"].live_only] == ["e0"]
    turned = msgspec.structs.replace(full, interactions=full.interactions[::-1])
    assert found(USERS, turned, full) == {"order": FieldDifference("order", [], [])}


@given(st.lists(interactions, min_size=1, max_size=5))
def test_what_is_lost_from_the_first_reading_is_found_though_more_came(facts: Sequence[Any]) -> None:
    later = click(99, ts=BASE + 1000)
    lower = user_of(*facts)
    assert found(USERS, user_of(later), lower, user_of(*facts, later))["interactions"].log_only
