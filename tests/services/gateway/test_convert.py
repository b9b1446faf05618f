"""services/gateway/convert.py: what the wire says becomes an event, or a sentence that says what to change."""

import math
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.convert import event_of, position_of
from shared import events, topics
from shared.client.calls import _request_of
from shared.errors import InvalidRequest
from shared.events import Interaction, Item, Review, Source
from shared.pb.finestream.v1.event_pb2 import PublishRequest

NOW = time.time()
ROOM = 512 * 1024
INTERACTION = {"event_id": "e", "user_id": "u", "item_id": "i", "ts": 1e9}
REVIEW = {"review_id": "r", "user_id": "u", "item_id": "i", "ts": 1e9, "text": "The battery dies fast."}
ITEM = {"item_id": "i", "ts": 1e9, "title": "Guitar"}

# What is sent -> the field that the answer names, and words of its sentence.
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "event", "set interaction, review or item"),
    *(({"interaction": {**INTERACTION, field: ""}}, field, "is required in interaction; set it")
      for field in ("event_id", "user_id", "item_id")),
    ({"interaction": {**INTERACTION, "ts": 0}}, "ts", "is required"),
    ({"interaction": {**INTERACTION, "ts": 5.0}}, "ts", "before 1995"),
    ({"interaction": {**INTERACTION, "ts": NOW * 1000}}, "ts", "send seconds, not milliseconds"),
    ({"interaction": {**INTERACTION, "ts": NOW + 3600}}, "ts", "in the future"),
    ({"interaction": {**INTERACTION, "ts": -1.0}}, "ts", "before 1995"),
    ({"interaction": {**INTERACTION, "ts": math.nan}}, "ts", "must be a finite number"),
    ({"interaction": {**INTERACTION, "ts": math.inf}}, "ts", "must be a finite number"),
    ({"interaction": {**INTERACTION, "user_id": "u" * 257}}, "user_id", "length of at most 256"),
    ({"interaction": {**INTERACTION, "user_id": "a\nb"}}, "user_id", "control characters"),
    ({"interaction": {**INTERACTION, "kind": "k" * 33}}, "kind", "length of at most 32"),
    ({"review": {**REVIEW, "text": ""}}, "text", "text is empty; send an interaction instead"),
    ({"review": {**REVIEW, "text": " \n "}}, "text", "text is empty"),
    ({"review": {**REVIEW, "text": "x" * 40 * 1024}}, "text", "40960 bytes; at most 32768"),
    ({"review": {**REVIEW, "title": "x" * 1025}}, "title", "length of at most 1024"),
    ({"review": {**REVIEW, "rating": 5.5}}, "rating", "must be at most 5"),
    ({"review": {**REVIEW, "rating": -1}}, "rating", "must be at least 0"),
    ({"review": {**REVIEW, "review_id": ""}}, "review_id", "is required in review"),
    ({"item": {**ITEM, "item_id": ""}}, "item_id", "is required in item"),
    ({"item": {**ITEM, "categories": ["c"] * 33}}, "categories", "length of at most 32"),
    ({"item": {**ITEM, "categories": ["a", ""]}}, "categories[1]", "length of at least 1"),
    ({"item": {**ITEM, "description": "x" * 40 * 1024}}, "description", "at most 32768"),
    ({"item": {**ITEM, "price": -0.01}}, "price", "must be at least 0"),
    ({"item": {**ITEM, "price": math.nan}}, "price", "must be a finite number"),
    ({"item": {**ITEM, "price": math.inf}}, "price", "must be a finite number"),
    ({"item": {**ITEM, "description": "x" * ROOM}}, "item", f"send at most {ROOM}"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "field", "words"), BAD)
def test_a_bad_event_is_refused_with_its_field_and_what_to_change(sent: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        event_of(PublishRequest(**sent), ROOM)
    assert caught.value.field == field
    assert words in str(caught.value)
    assert "`" not in str(caught.value), "it is a sentence, not a type checker's output"


def test_an_interaction_without_a_kind_is_a_click() -> None:
    assert event_of(PublishRequest(interaction=INTERACTION), ROOM) == (
        topics.INTERACTIONS,
        Interaction(event_id="e", user_id="u", item_id="i", ts=1e9, kind="click"),
    )


@pytest.mark.parametrize(("sent", "means"), [({}, True), ({"available": True}, True), ({"available": False}, False)])
def test_an_item_is_available_unless_it_says_otherwise(sent: dict[str, bool], means: bool) -> None:
    topic, event = event_of(PublishRequest(item={**ITEM, **sent}), ROOM)
    assert topic == topics.ITEMS
    assert isinstance(event, Item)
    assert event.available is means


ids = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)


@settings(deadline=None)  # the machine may be busy
@given(user_id=ids, text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200), rating=st.floats(0, 5))
def test_every_field_of_a_review_arrives_as_sent(user_id: str, text: str, rating: float) -> None:
    sent: dict[str, Any] = {**REVIEW, "user_id": user_id, "text": "x" + text, "title": text, "rating": rating}
    assert event_of(PublishRequest(review=sent), ROOM) == (topics.REVIEWS, Review(**sent))


def test_every_field_of_an_item_arrives_as_sent() -> None:
    sent: dict[str, Any] = {
        **ITEM,
        "description": "d",
        "brand": "b",
        "categories": ["c", "e"],
        "available": False,
        "price": 9.99,
    }
    assert event_of(PublishRequest(item=sent), ROOM) == (topics.ITEMS, Item(**sent))


@pytest.mark.parametrize(("sent", "means"), [({}, msgspec.UNSET), ({"price": 0.0}, 0.0), ({"price": 3}, 3.0)])
def test_an_item_without_a_price_is_not_one_for_nothing(sent: dict[str, float], means: object) -> None:
    _, event = event_of(PublishRequest(item={**ITEM, **sent}), ROOM)
    assert isinstance(event, Item)
    assert event.price == means


@pytest.mark.parametrize("price", [msgspec.UNSET, 0.0, 9.99])
def test_an_item_arrives_as_our_client_sends_it(price: float | msgspec.UnsetType) -> None:
    item = Item(**ITEM, categories=["c"], price=price)
    assert event_of(_request_of(item), ROOM) == (topics.ITEMS, item)


def test_a_position_says_where_the_event_lies() -> None:
    position = position_of(Source("reviews", 3, 17, 1e9), events.key_of(Review(**REVIEW)))
    assert (position.topic, position.partition, position.offset, position.key) == ("reviews", 3, 17, "u")
