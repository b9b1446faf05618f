"""shared/events.py: what is taken, what is refused and why, and that the checked-in schema is current."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events, topics
from shared.cli.generate import generate
from shared.events import InvalidEvent, Item, Review

ROOT = Path(__file__).parents[2]
NOW = 1_700_000_000.0
CLICK = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "ts": NOW}
REVIEW = {"review_id": "r1", "user_id": "u1", "item_id": "i1", "ts": NOW, "text": "The neck feels good."}


def refused(topic: str, value: bytes | None) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        events.decode(topic, value, NOW)
    return caught.value


def test_impressions_of_before_there_was_exploration_or_an_experiment_are_read() -> None:
    old = {"request_id": "q", "user_id": "u", "ts": NOW, "item_ids": ["i"], "rung": "full", "model_version": "v"}
    read = events.decode(topics.IMPRESSIONS, json.dumps(old).encode(), NOW)
    assert isinstance(read, events.Impression)
    assert (read.policy, read.variant, read.propensities, read.explored) == ("", "", [], [])


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"user_id": None}, "wrong_type", "user_id"),
        ({"user_id": 7}, "wrong_type", "user_id"),
        ({"user_id": ""}, "out_of_bounds", "user_id"),
        ({"user_id": "u" * 257}, "out_of_bounds", "user_id"),
        ({"item_id": "a\nb"}, "bad_id", "item_id"),
        ({"ts": "yesterday"}, "wrong_type", "ts"),
        ({"ts": NOW + 301}, "in_future", "ts"),
        ({"ts": NOW * 1000}, "in_future", "ts"),
        ({"ts": 788_918_399}, "too_old", "ts"),
    ],
)
def test_a_wrong_interaction_is_refused_with_its_reason_and_field(change: dict, reason: str, field: str) -> None:
    error = refused(topics.INTERACTIONS, json.dumps(CLICK | change).encode())
    assert (error.reason, error.field) == (reason, field)
    assert field in str(error)


@pytest.mark.parametrize("field", sorted(CLICK))
def test_a_missing_field_is_named(field: str) -> None:
    error = refused(topics.INTERACTIONS, json.dumps({k: v for k, v in CLICK.items() if k != field}).encode())
    assert (error.reason, error.field) == ("missing_field", field)


@pytest.mark.parametrize(
    ("value", "reason"),
    [(b"not json", "not_json"), (b"\xff\xfe", "not_json"), (b"", "not_json"), (b"[1]", "wrong_type"),
     (b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}", "not_json"),
     (b"null", "wrong_type"), (None, "missing_field")],
)  # fmt: skip
def test_a_value_that_is_no_event_is_refused(value: bytes | None, reason: str) -> None:
    assert refused(topics.INTERACTIONS, value).reason == reason


@pytest.mark.parametrize(("text", "reason"), [("", "empty_text"), ("  \n", "empty_text"), ("é" * 16_385, "too_large")])
def test_a_review_without_text_or_with_more_than_32_kib_is_refused(text: str, reason: str) -> None:
    assert refused(topics.REVIEWS, json.dumps(REVIEW | {"text": text}).encode()).reason == reason


def test_a_review_of_exactly_32_kib_is_taken() -> None:
    value = json.dumps(REVIEW | {"text": "x" * 32_768}).encode()
    assert isinstance(events.decode(topics.REVIEWS, value, NOW), Review)


@pytest.mark.parametrize(("phrase", "quote", "taken"), [("p" * 36, "q" * 120, True), ("p" * 37, "q" * 120, False),
                                                        ("good", "音" * 50, True), ("good", "音" * 51, False)])  # fmt: skip
def test_phrase_and_quote_of_a_pair_are_bounded_together_in_bytes(phrase: str, quote: str, taken: bool) -> None:
    pair = events.Pair("sound", phrase, b"v", 1, 0, len(quote), quote)
    edge = events.ReviewEdge(
        item_id="i", review_id="r", user_id="u", ts=NOW, pairs=[pair], source=events.Source(topics.REVIEWS, 0, 0, NOW)
    )
    value = events.encode(edge)
    if taken:
        assert events.decode(topics.ITEM_EDGES, value, NOW) == edge
    else:
        error = refused(topics.ITEM_EDGES, value)
        assert (error.reason, error.field) == ("too_large", "pairs")


def test_the_time_bounds_are_inclusive() -> None:
    for ts in (events.EARLIEST, NOW + events.FUTURE_TOLERANCE_SECONDS):
        events.decode(topics.INTERACTIONS, json.dumps(CLICK | {"ts": ts}).encode(), NOW)


def test_unknown_fields_are_ignored() -> None:
    value = json.dumps(CLICK | {"page": "/shop", "kind": "buy"}).encode()
    assert events.decode(topics.INTERACTIONS, value, NOW) == events.Interaction(**CLICK, kind="buy")


def test_an_item_is_available_unless_withdrawn() -> None:
    assert events.decode(topics.ITEMS, b'{"item_id": "i", "ts": 1e9}', NOW).available
    withdrawn = events.decode(topics.ITEMS, b'{"item_id": "i", "ts": 1e9, "available": false}', NOW)
    assert isinstance(withdrawn, Item)
    assert not withdrawn.available


@given(st.binary(max_size=200), st.sampled_from(sorted(events.TYPE_OF)))
def test_any_bytes_are_decoded_or_refused_with_a_known_reason(value: bytes, topic: str) -> None:
    try:
        events.decode(topic, value, NOW)
    except InvalidEvent as error:
        assert error.reason in events.Reason.__args__


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*CLICK, *REVIEW]), inner, max_size=6),
    max_leaves=8,
)


@given(json_values, st.sampled_from(sorted(events.TYPE_OF)))
def test_any_json_is_decoded_or_refused_with_a_known_reason(value: object, topic: str) -> None:
    try:
        events.decode(topic, json.dumps(value).encode(), NOW)
    except InvalidEvent as error:
        assert error.reason in events.Reason.__args__


@given(st.builds(events.Interaction, event_id=st.text(min_size=1), user_id=st.text(min_size=1),
                 item_id=st.text(min_size=1), ts=st.floats(1e9, NOW), kind=st.text(min_size=1, max_size=32)))  # fmt: skip
def test_what_is_encoded_decodes_to_itself(event: events.Interaction) -> None:
    try:
        assert events.decode(topics.INTERACTIONS, events.encode(event), NOW) == event
    except InvalidEvent as error:
        assert error.reason in ("bad_id", "out_of_bounds")


def test_generated_code_and_schema_are_current(tmp_path: Path) -> None:
    generate(tmp_path)
    made = {p.relative_to(tmp_path): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert len(made) > 10
    stale = [str(path) for path, text in made.items() if (ROOT / path).read_text() != text]
    assert not stale, f"run `make generate`: {stale}"


def test_every_topic_has_one_event_type() -> None:
    assert set(events.TYPE_OF) == {topic.name for topic in topics.ALL}


def test_equal_structs_have_equal_content_hashes_and_others_do_not() -> None:
    assert events.content_hash("a", "b") == events.content_hash("a", "b")
    assert events.content_hash("a", "b") != events.content_hash("ab", "")
    assert msgspec.json.decode(events.encode(events.Erasure(user_id="u", erased_at=1.0)))["user_id"] == "u"
