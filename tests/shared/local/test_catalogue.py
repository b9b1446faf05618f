"""The generated catalogue: known tastes, valid events, the same for the same seed."""

from collections import Counter
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import events
from shared.events import Interaction, Review
from shared.local.catalogue import CATEGORIES, Catalogue, generate, suits
from shared.local.ledger import id_of, topic_of


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return generate()


def interactions(catalogue: Catalogue) -> list[Interaction]:
    return [event for event in catalogue.events if isinstance(event, Interaction)]


def test_the_sizes_are_as_promised(catalogue: Catalogue) -> None:
    clicks = interactions(catalogue)
    assert len(catalogue.items) == 200
    assert len(catalogue.tastes) == len({click.user_id for click in clicks}) == 350
    assert 6000 <= len(clicks) <= 8000
    assert 2000 <= len(catalogue.events) - len(clicks) <= 3000


def test_every_event_is_valid_and_its_id_is_its_own(catalogue: Catalogue) -> None:
    everything = [*catalogue.items, *catalogue.events]
    for event in everything:
        assert events.decode(topic_of(event), events.encode(event)) == event
    assert len({(topic_of(event), id_of(event)) for event in everything}) == len(everything)


@given(st.integers(0, 2**31))
@settings(max_examples=5, deadline=None)
def test_the_same_seed_gives_the_same_catalogue(seed: int) -> None:
    assert generate(seed, 40, 20, 200) == generate(seed, 40, 20, 200)


def test_another_seed_gives_other_events() -> None:
    assert generate(1, 40, 20, 200).events != generate(2, 40, 20, 200).events


def test_events_are_in_time_order_over_months(catalogue: Catalogue) -> None:
    assert all(a.ts <= b.ts for a, b in pairwise(catalogue.events))
    assert catalogue.events[-1].ts - catalogue.events[0].ts > 180 * 86_400


def test_a_split_by_time_leaves_many_users_on_both_sides(catalogue: Catalogue) -> None:
    clicks = interactions(catalogue)
    cut = int(0.8 * len(clicks))
    assert len({c.user_id for c in clicks[:cut]} & {c.user_id for c in clicks[cut:]}) > 150


def test_users_meet_what_they_love_far_more_than_chance(catalogue: Catalogue) -> None:
    category_of = catalogue.category_of
    shares = Counter(catalogue.tastes[c.user_id].loved == category_of[c.item_id] for c in interactions(catalogue))
    assert shares[True] / shares.total() > 4 / len(CATEGORIES)


def test_users_meet_what_is_good_in_what_they_care_about(catalogue: Catalogue) -> None:
    product_of = {product.item.item_id: product for product in catalogue.products}
    met = [suits(catalogue.tastes[c.user_id], product_of[c.item_id]) for c in interactions(catalogue)]
    any_item = [suits(taste, product) for taste in catalogue.tastes.values() for product in catalogue.products]
    assert mean(met) > mean(any_item) + 0.2


def test_nobody_meets_an_item_twice(catalogue: Catalogue) -> None:
    pairs = [(c.user_id, c.item_id) for c in interactions(catalogue)]
    assert len(set(pairs)) == len(pairs)


def test_reviews_are_varied_and_their_stars_follow_their_words(catalogue: Catalogue) -> None:
    reviews = [event for event in catalogue.events if isinstance(event, Review)]
    assert len({review.text for review in reviews}) > 0.8 * len(reviews)
    assert not any("{" in review.text + review.title for review in reviews)
    good = mean(r.rating for r in reviews if "battery lasts for days" in r.text)
    bad = mean(r.rating for r in reviews if "battery dies fast" in r.text)
    assert good > bad + 1.0
