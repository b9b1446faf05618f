"""services/ranking/requests.py: every bad request is refused with a sentence that names what to change."""

import math
from typing import Any

import pytest

from services.ranking import requests
from shared.errors import InvalidRequest
from shared.pb.finestream.v1.position_pb2 import Position
from shared.pb.finestream.v1.ranking_pb2 import (
    DIVERSITY_METHOD_MMR,
    EXPLANATION_METHOD_LEAVE_ONE_OUT,
    EXPLORATION_METHOD_EPSILON,
    RankBatchRequest,
    RankingServiceSimilarItemsRequest,
    RankRequest,
)

LIMIT = 1000

BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("no user", {"user_id": ""}, "user_id", "user_id is empty"),
    ("long user", {"user_id": "u" * 257}, "user_id", "at most 256"),
    ("control character", {"user_id": "u\n"}, "user_id", "control characters"),
    ("k of 0", {"k": 0}, "k", "ask for 1 to 1000"),
    ("negative k", {"k": -1}, "k", "ask for 1 to 1000"),
    ("k over the limit", {"k": 1001}, "k", "ask for 1 to 1000"),
    ("k of a billion", {"k": 10**9}, "k", "ask for 1 to 1000"),
    ("empty candidate", {"candidates": [""]}, "candidates", "1 to 256"),
    ("long candidate", {"candidates": ["i" * 257]}, "candidates", "at most 256"),
    ("many candidates", {"candidates": [str(i) for i in range(10_001)]}, "candidates", "at most 10000"),
    ("much context", {"context_items": ["i"] * 51}, "context_items", "at most 50"),
    ("many excludes", {"exclude_items": [str(i) for i in range(1001)]}, "exclude_items", "at most 1000"),
    ("many categories", {"categories": [str(i) for i in range(33)]}, "categories", "at most 32"),
    ("empty category", {"categories": [""]}, "categories", "empty"),
    ("unknown topic", {"after": [Position(topic="impressions", key="u")]}, "after", "interactions, reviews"),
    ("another user's event", {"after": [Position(topic="reviews", key="v")]}, "after", "another user"),
    ("item without a key", {"after": [Position(topic="items")]}, "after.key", "empty"),
    ("negative offset", {"after": [Position(topic="reviews", offset=-1)]}, "after", "negative"),
    ("too much diversity", {"diversity": 1.5}, "diversity", "send 0 to 1"),
    ("diversity that is no number", {"diversity": float("nan")}, "diversity", "send 0 to 1"),
    ("less than no item of a category", {"max_per_category": -1}, "max_per_category", "or 0 for no limit"),
    ("exploration of less than nothing", {"exploration": -0.1}, "exploration", "send 0 to 1"),
    ("a negative price", {"min_price": -0.5}, "min_price", "send 0 or more"),
    ("an endless price", {"max_price": float("inf")}, "max_price", "send 0 or more"),
    ("a price that is no number", {"max_price": float("nan")}, "max_price", "send 0 or more"),
    ("bounds that leave nothing", {"min_price": 2.0, "max_price": 1.0}, "min_price", "not above"),
    ("many positions", {"after": [Position(topic="reviews")] * 65}, "after", "at most 64"),
]


@pytest.mark.parametrize(("fields", "field", "words"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_a_bad_request_is_refused_with_its_field_and_what_to_change(
    fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        requests.read(RankRequest(**{"user_id": "u", **fields}), LIMIT)
    assert caught.value.field == field


def test_an_absent_k_is_ten_or_the_limit_where_that_is_less() -> None:
    assert requests.read(RankRequest(user_id="u"), LIMIT).k == 10
    assert requests.read(RankRequest(user_id="u"), 5).k == 5


def test_a_request_at_every_bound_is_taken() -> None:
    query = requests.read(
        RankRequest(
            user_id="u" * 256,
            k=LIMIT,
            candidates=[str(i) for i in range(10_000)],
            context_items=["i"] * 50,
            exclude_items=[str(i) for i in range(1000)],
            categories=[str(i) for i in range(32)],
            after=[Position(topic="interactions", offset=3, key="u" * 256), Position(topic="items", key="i")],
        ),
        LIMIT,
    )
    assert (query.k, len(query.candidates), len(query.context)) == (LIMIT, 10_000, 50)
    assert [after.topic for after in query.after_user] == ["interactions"]
    assert [after.key for after in query.after_items] == ["i"]


def test_what_a_request_leaves_out_of_its_arrangement_is_the_services() -> None:
    default = requests.Arrangement(0.4, "dpp", exploration=0.25, exploration_method="ucb")
    assert requests.read(RankRequest(user_id="u"), LIMIT, default).arrangement == default
    asked = RankRequest(
        user_id="u", diversity=0.0, diversity_method=DIVERSITY_METHOD_MMR, max_per_category=2, exploration=0.5,
        exploration_method=EXPLORATION_METHOD_EPSILON,
    )  # fmt: skip
    expected = requests.Arrangement(0.0, "mmr", 2, 0.5, "epsilon")
    assert requests.read(asked, LIMIT, default).arrangement == expected
    plain = RankRequest(user_id="u", diversity=0.0, exploration=0.0)
    assert requests.read(plain, LIMIT, default).arrangement.by_score


def test_an_invalid_one_of_a_batch_is_named_by_its_index() -> None:
    batch = RankBatchRequest(requests=[RankRequest(user_id="a"), RankRequest(user_id="b", k=0)])
    with pytest.raises(InvalidRequest, match=r"requests\[1\]: k is 0"):
        requests.read_batch(batch, LIMIT)


def test_a_batch_over_its_bound_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most 256"):
        requests.read_batch(RankBatchRequest(requests=[RankRequest(user_id="a")] * 257), LIMIT)


def test_reasons_are_found_exactly_where_that_is_asked_for() -> None:
    assert not requests.read(RankRequest(user_id="u"), LIMIT).leave_out
    asked = RankRequest(user_id="u", explanation_method=EXPLANATION_METHOD_LEAVE_ONE_OUT)
    assert requests.read(asked, LIMIT).leave_out


def test_bounds_of_the_price_may_be_one_both_or_none() -> None:
    def prices(**asked: float) -> object:
        similar = RankingServiceSimilarItemsRequest(item_id="i", **asked)
        found = requests.read(RankRequest(user_id="u", **asked), LIMIT).prices
        assert requests.read_similar(similar, LIMIT).prices == found
        return found

    assert prices() is None
    assert prices(min_price=0.0) == prices(min_price=-0.0) == (0.0, math.inf)
    assert prices(max_price=0.0) == (0.0, 0.0)
    assert prices(min_price=1.5, max_price=1.5) == (1.5, 1.5)
