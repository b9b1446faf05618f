"""Hypothesis strategies: any history of one user, or of one item, with edits, repeats, ties and erasures.

Values are drawn from small pools so that they collide: the same review again, the same time, the same hash. Pools
of ids and times are larger than a state's bounds, so that slots are evicted and come back.
"""

from hypothesis import strategies as st
from msgspec import UNSET

from shared.events import (
    Erasure,
    Interaction,
    InteractionEdge,
    Item,
    ItemSemantics,
    Opinions,
    Pair,
    ReviewEdge,
    Source,
)
from shared.graph.state import POPULARITY_BUCKET_SECONDS

BASE = 1_600_000_000.0
USER, ITEM = "u", "i"
sources = st.builds(
    Source, st.sampled_from(["interactions", "reviews"]), st.just(0), st.integers(0, 500), st.just(BASE)
)
times = st.integers(0, 60).map(lambda step: BASE + step)
months = st.tuples(times, st.integers(0, 15)).map(lambda drawn: drawn[0] + drawn[1] * POPULARITY_BUCKET_SECONDS)
pairs = st.lists(
    st.builds(
        Pair, st.sampled_from(["sound", "price"]), st.just("x"), st.sampled_from([b"a", b"b"]), st.integers(-1, 1),
        st.just(0), st.just(1), st.just("q"),
    ),
    max_size=6,
)  # fmt: skip
interactions = st.builds(
    Interaction,
    event_id=st.integers(0, 70).map(lambda n: f"e{n}"),
    user_id=st.just(USER),
    item_id=st.sampled_from(["i", "j"]),
    ts=times,
    kind=st.sampled_from(["click", "buy"]),
)
opinions = st.builds(
    Opinions,
    review_id=st.integers(0, 45).map(lambda n: f"r{n}"),
    user_id=st.just(USER),
    item_id=st.sampled_from(["i", "j"]),
    ts=times,
    rating=st.sampled_from([1.0, 5.0]),
    extractor=st.just("offline"),
    extractor_version=st.integers(1, 2),
    content_hash=st.sampled_from(["a", "b"]),
    space=st.just("s"),
    pairs=pairs,
    vector=st.sampled_from([b"", b"v"]),
    source=sources,
)
erasures = st.builds(Erasure, user_id=st.just(USER), erased_at=times)
user_facts = st.one_of(interactions, interactions, opinions, opinions, opinions, erasures)

descriptions = st.builds(
    Item,
    item_id=st.just(ITEM),
    ts=times,
    title=st.sampled_from(["t", "t\0"]),
    description=st.sampled_from(["", "\0d"]),
    categories=st.lists(st.sampled_from(["c", "withdrawn"]), max_size=2),
    available=st.booleans(),
    price=st.sampled_from([UNSET, 0.0, 1.5]),
)
semantics = st.builds(
    ItemSemantics,
    item_id=st.just(ITEM),
    ts=times,
    space=st.just("s"),
    extractor_version=st.integers(1, 2),
    content_hash=st.sampled_from(["a", "b"]),
    vector=st.sampled_from([b"v", b"w"]),
    source=sources,
)
clicks = st.builds(
    InteractionEdge,
    item_id=st.just(ITEM),
    ts=months,
    user_hash=st.one_of(st.integers(0, 400), st.integers(0, (1 << 63) - 1)),
    source=sources,
)
reviews = st.builds(
    ReviewEdge,
    item_id=st.just(ITEM),
    review_id=st.integers(0, 45).map(lambda n: f"r{n}"),
    user_id=st.sampled_from(["u", "v"]),
    ts=times,
    rating=st.sampled_from([1.0, 5.0]),
    extractor_version=st.integers(1, 2),
    pairs=pairs,
    vector=st.sampled_from([b"", b"v"]),
    source=sources,
)
blanks = st.builds(
    ReviewEdge,
    item_id=st.just(ITEM),
    review_id=st.integers(0, 45).map(lambda n: f"r{n}"),
    user_id=st.sampled_from(["u", "v"]),
    ts=times,
    erased_at=times,
    source=sources,
)
item_facts = st.one_of(descriptions, semantics, clicks, reviews, reviews, reviews, blanks)
