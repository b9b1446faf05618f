import math
import random

import numpy as np
import pytest
import torch

from shared.events import InteractionEdge, Pair
from shared.graph.fold import edges_of, fold_item, fold_user
from shared.graph.state import ItemNode, UserState
from shared.models.features import DAY, RECENCY_ORIGIN, item_features, recency, user_features
from shared.space import dequantise
from tests.shared.models.worlds import SCHEMA, SOURCE, START, interaction, opinions, semantics, states, vector


def test_an_items_own_text_wins_over_its_reviews_and_reviews_over_nothing() -> None:
    rng = random.Random(0)
    facts = [opinions(rng, f"u{n}", "i", START + n) for n in range(3)]
    reviewed = fold_item(ItemNode("i"), [edges_of(fact, SOURCE) for fact in facts])
    own = vector(rng, 12)
    described = fold_item(reviewed, [semantics("i", own)])
    content = item_features([ItemNode("i"), reviewed, described], SCHEMA, 365.0, "cpu").content.numpy()
    mean = np.mean([dequantise(fact.vector) for fact in facts], 0)
    assert not content[0].any()
    np.testing.assert_allclose(content[1], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(content[2], dequantise(own) / np.linalg.norm(dequantise(own)), atol=1e-5)


def test_edges_carry_attribute_opinion_polarity_and_the_reviewed_items_row() -> None:
    said = Pair("price", "dear", vector(random.Random(1), 4), -1, 0, 4, "dear")
    foreign = Pair("sound", "x", b"\1" * 9, 1, 0, 1, "x")  # of a space with more numbers
    unnamed = Pair("smell", "odd", said.vector, 1, 0, 3, "odd")
    base = opinions(random.Random(2), "u", "known", START, pairs=0)
    fact = type(base)(**{f: getattr(base, f) for f in base.__struct_fields__} | {"pairs": [said, foreign, unnamed]})
    user = fold_user(UserState("u"), [fact])
    edges = user_features([UserState("other"), user], {"known": 7}, SCHEMA, 5, "cpu").edges
    assert edges.node.tolist() == [1, 1]
    assert edges.attribute.tolist() == [1, 2]  # what fits no named attribute is the last one
    assert edges.polarity.tolist() == [0, 2]
    assert edges.item.tolist() == [7, 7]
    np.testing.assert_allclose(edges.opinion[0].numpy(), dequantise(said.vector))
    assert user_features([user], {}, SCHEMA, 5, "cpu").edges.item.tolist() == [-1, -1]


def test_a_history_is_oldest_first_and_keeps_the_newest_that_the_table_has() -> None:
    facts = [interaction("u", f"i{n}", START + n) for n in range(6)]
    user = fold_user(UserState("u"), facts)
    row_of = {f"i{n}": n for n in (0, 1, 2, 4, 5)}
    features = user_features([user, UserState("none")], row_of, SCHEMA, 3, "cpu")
    assert features.history.tolist() == [[2, 4, 5], [0, 0, 0]]
    assert features.real.tolist() == [[True] * 3, [False] * 3]


def test_log_count_plus_recency_is_the_log_of_decayed_popularity() -> None:
    half_life = 100.0
    rng = random.Random(3)
    for n in (1, 5, 20):
        times = [START + rng.random() * 300 * DAY for _ in range(n)]
        edges = [InteractionEdge(item_id="i", ts=ts, user_hash=k, source=SOURCE) for k, ts in enumerate(times)]
        node = fold_item(ItemNode("i"), edges)
        mid = [(ts // (30 * DAY) + 0.5) * 30 * DAY for ts in times]  # a bucket counts at its middle
        decayed = math.log(sum(2 ** ((ts - RECENCY_ORIGIN) / DAY / half_life) for ts in mid))
        assert math.log(n) + recency(node, half_life) == pytest.approx(decayed, abs=1e-6)


def test_recency_is_finite_for_an_item_of_which_nothing_is_known() -> None:
    assert math.isfinite(recency(ItemNode("i"), 1.0))
    later = fold_item(ItemNode("i"), [semantics("i", b"", START)])
    assert recency(later, 365.0) > recency(ItemNode("i"), 365.0)


def test_the_order_of_the_items_does_not_matter() -> None:
    _, items = states()
    forth, back = (item_features(order, SCHEMA, 365.0, "cpu") for order in (items, items[::-1]))
    assert torch.equal(forth.content, back.content.flip(0))
    assert torch.equal(forth.recency, back.recency.flip(0))
