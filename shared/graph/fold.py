"""The fold: how facts become states. Pure joins: any order, any repeat, any batching gives the same state.

Everything kept is a maximum over a total order, or the newest N of identified facts whose place in the order
never falls; both are joins (commutative, associative, idempotent), so at-least-once delivery is enough for
an exactly-once result. graph_updater, rebuild, trainer and evaluation all fold with these functions.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from shared import events
from shared.events import (
    Erasure,
    Interaction,
    InteractionEdge,
    Item,
    ItemSemantics,
    Opinions,
    ReviewEdge,
    Source,
)
from shared.graph.state import (
    BUCKET_HASHES,
    MAX_INTERACTIONS,
    MAX_PAIRS_PER_REVIEW,
    MAX_POPULARITY_BUCKETS,
    MAX_REVIEWS,
    POPULARITY_BUCKET_SECONDS,
    TOTAL_HASHES,
    InteractionSlot,
    ItemFacts,
    ItemNode,
    ReviewSlot,
    Semantics,
    UserState,
)

UserFact = Interaction | Opinions | Erasure
ItemFact = Item | ItemSemantics | InteractionEdge | ReviewEdge


def fold_user(user: UserState, facts: Iterable[UserFact], sources: Iterable[Source | None] = ()) -> UserState:
    """Join facts of one user into their state. `sources` run beside `facts` where positions are wanted.

    Facts of other users are the caller's mistake and raise ValueError.
    """
    interactions: list[InteractionSlot] = []
    reviews: list[ReviewSlot] = []
    erased_at = user.erased_at
    for fact in facts:
        if fact.user_id != user.user_id:
            raise ValueError("a fact of another user")
        if isinstance(fact, Interaction):
            interactions.append(InteractionSlot(fact.ts, fact.event_id, fact.item_id, fact.kind))
        elif isinstance(fact, Opinions):
            reviews.append(_slot_of_opinions(fact))
        else:
            erased_at = max(erased_at, fact.erased_at)
    return UserState(
        user_id=user.user_id,
        interactions=_after(erased_at, _join_interactions(user.interactions, interactions)),
        reviews=_after(erased_at, _join_reviews(user.reviews, reviews)),
        erased_at=erased_at,
        positions=_positions(user.positions, sources),
        version=user.version,
    )


def fold_item(item: ItemNode, facts: Iterable[ItemFact], sources: Iterable[Source | None] = ()) -> ItemNode:
    """Join facts of one item into its state; as fold_user."""
    description, semantics = item.facts, item.semantics
    reviews: list[ReviewSlot] = []
    buckets, total, last_seen = dict(item.popularity), item.popularity_total, item.last_seen
    for fact in facts:
        if fact.item_id != item.item_id:
            raise ValueError("a fact of another item")
        last_seen = max(last_seen, fact.ts)
        if isinstance(fact, InteractionEdge):
            bucket = int(fact.ts // POPULARITY_BUCKET_SECONDS)
            buckets[bucket] = _smallest(buckets.get(bucket, ()), (fact.user_hash,), BUCKET_HASHES)
            total = _smallest(total, (fact.user_hash,), TOTAL_HASHES)
        elif isinstance(fact, ReviewEdge):
            reviews.append(_slot_of_edge(fact))
        elif isinstance(fact, Item):
            description = _newest(description, _facts_of(fact), _facts_order)
        else:
            semantics = _newest(semantics, _semantics_of(fact), _semantics_order)
    return ItemNode(
        item_id=item.item_id,
        facts=description,
        semantics=semantics,
        reviews=_join_reviews(item.reviews, reviews),
        popularity=_newest_buckets(buckets),
        popularity_total=total,
        last_seen=last_seen,
        positions=_positions(item.positions, sources),
        version=item.version,
    )


def merge_users(a: UserState, b: UserState) -> UserState:
    """The join of two states of one user, as after a rebalance left two writers."""
    erased_at = max(a.erased_at, b.erased_at)
    return UserState(
        user_id=a.user_id,
        interactions=_after(erased_at, _join_interactions(a.interactions, b.interactions)),
        reviews=_after(erased_at, _join_reviews(a.reviews, b.reviews)),
        erased_at=erased_at,
        positions=_merge_positions(a.positions, b.positions),
        version=max(a.version, b.version),
    )


def merge_items(a: ItemNode, b: ItemNode) -> ItemNode:
    """The join of two states of one item."""
    buckets = dict(a.popularity)
    for bucket, hashes in b.popularity.items():
        buckets[bucket] = _smallest(buckets.get(bucket, ()), hashes, BUCKET_HASHES)
    return ItemNode(
        item_id=a.item_id,
        facts=_newest(a.facts, b.facts, _facts_order),
        semantics=_newest(a.semantics, b.semantics, _semantics_order),
        reviews=_join_reviews(a.reviews, b.reviews),
        popularity=_newest_buckets(buckets),
        popularity_total=_smallest(a.popularity_total, b.popularity_total, TOTAL_HASHES),
        last_seen=max(a.last_seen, b.last_seen),
        positions=_merge_positions(a.positions, b.positions),
        version=max(a.version, b.version),
    )


def edges_of(fact: Interaction | Opinions, source: Source) -> InteractionEdge | ReviewEdge:
    """The fact as its item sees it. Depends on the fact alone, so the order of arrival cannot matter."""
    if isinstance(fact, Interaction):
        return InteractionEdge(
            item_id=fact.item_id, ts=fact.ts, user_hash=events.user_hash(fact.user_id), source=source
        )
    return ReviewEdge(
        item_id=fact.item_id,
        review_id=fact.review_id,
        user_id=fact.user_id,
        ts=fact.ts,
        rating=fact.rating,
        extractor_version=fact.extractor_version,
        pairs=fact.pairs[:MAX_PAIRS_PER_REVIEW],
        vector=fact.vector,
        source=source,
    )


def blank_of(
    user_id: str, item_id: str, review_id: str, ts: float, erased_at: float, source: Source
) -> ReviewEdge:  # fmt: skip
    """What blanks a user's slot on an item: it wins over every version up to erased_at.

    Its place is erased_at: a blank that fell out of the newest N before what it wins over would let that come
    back with a later edit, and the state would depend on the order of arrival.
    """
    return ReviewEdge(
        item_id=item_id, review_id=review_id, user_id=user_id, ts=ts, erased_at=erased_at, source=source
    )  # fmt: skip


def same_user(a: UserState, b: UserState) -> bool:
    """Equal but for what says which records a state has read."""
    return _bare_user(a) == _bare_user(b)


def same_item(a: ItemNode, b: ItemNode) -> bool:
    """Equal but for what says which records a state has read."""
    return _bare_item(a) == _bare_item(b)


def distinct_users(hashes: tuple[int, ...], size: int = TOTAL_HASHES) -> float:
    """How many distinct users a bottom-k sketch has seen; exact below `size`.

    Estimator (k - 1) / kth smallest: Bar-Yossef et al., Counting Distinct Elements in a Data Stream, 2002.
    """
    if len(hashes) < size:
        return float(len(hashes))
    return (len(hashes) - 1) * float(1 << 63) / max(hashes[-1], 1)


def _bare_user(user: UserState) -> tuple[object, ...]:
    return (user.user_id, user.interactions, user.reviews, user.erased_at)


def _bare_item(item: ItemNode) -> tuple[object, ...]:
    return (
        item.item_id, item.facts, item.semantics, item.reviews, item.popularity, item.popularity_total,
        item.last_seen,
    )  # fmt: skip


# --- interactions ---------------------------------------------------------------------------------------


_interaction_order = attrgetter("ts", "event_id", "item_id", "kind")  # written in C: it is what a fold does most
Slot = TypeVar("Slot", InteractionSlot, ReviewSlot)


def _after(erased_at: float, slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
    # What is erased is older than all that is not, so none of it took the place of another among the newest N.
    return tuple(slot for slot in slots if slot.ts > erased_at) if erased_at else slots


def _join_interactions(
    held: tuple[InteractionSlot, ...], others: Sequence[InteractionSlot]
) -> tuple[InteractionSlot, ...]:
    """The newest of both."""
    if not others:
        return held
    slots = {slot.event_id: slot for slot in held}
    for slot in others:
        # One event_id with two contents is a producer's mistake; the larger one wins, whatever came first.
        known = slots.get(slot.event_id)
        if known is None or _interaction_order(slot) > _interaction_order(known):
            slots[slot.event_id] = slot
    return tuple(sorted(slots.values(), key=_interaction_order, reverse=True)[:MAX_INTERACTIONS])


# --- reviews --------------------------------------------------------------------------------------------


def _slot_of_opinions(fact: Opinions) -> ReviewSlot:
    return ReviewSlot(
        fact.item_id, fact.review_id, fact.ts, 0.0, fact.extractor_version, fact.rating,
        tuple(fact.pairs[:MAX_PAIRS_PER_REVIEW]), b"",
    )  # fmt: skip


def _slot_of_edge(fact: ReviewEdge) -> ReviewSlot:
    return ReviewSlot(
        fact.user_id, fact.review_id, fact.ts, fact.erased_at, fact.extractor_version, fact.rating,
        tuple(fact.pairs[:MAX_PAIRS_PER_REVIEW]), fact.vector,
    )  # fmt: skip


def _join_reviews(held: tuple[ReviewSlot, ...], others: Sequence[ReviewSlot]) -> tuple[ReviewSlot, ...]:
    """The newest of both, of each review its newest version."""
    if not others:
        return held
    slots = {(slot.other_id, slot.review_id): slot for slot in held}
    for slot in others:
        known = slots.get((slot.other_id, slot.review_id))
        if known is None or _version(slot) > _version(known):
            slots[slot.other_id, slot.review_id] = slot
    ordered = sorted(slots.values(), key=attrgetter("place", "review_id", "other_id"), reverse=True)
    return tuple(ordered[:MAX_REVIEWS])


def _version(slot: ReviewSlot) -> tuple[float, bool, float, float, int, float, tuple[object, ...], bytes]:
    # The place comes first, so the winner also has the highest place: what was evicted can only come back by a
    # fact that wins. The last three only decide between producers' mistakes, so that the order is total.
    return (
        slot.place, slot.erased_at > 0.0, slot.ts, slot.erased_at, slot.extractor_version, slot.rating,
        tuple((p.start, p.end, p.attribute, p.phrase, p.polarity, p.quote, p.vector) for p in slot.pairs),
        slot.vector,
    )  # fmt: skip


# --- items ----------------------------------------------------------------------------------------------


def _facts_of(item: Item) -> ItemFacts:
    digest = events.content_hash(
        item.title, item.description, item.brand, *item.categories, "" if item.available else "withdrawn"
    )
    price = None if item.price is msgspec.UNSET else float(item.price)
    categories = tuple(item.categories)
    return ItemFacts(item.ts, digest, item.title, item.description, item.brand, categories, item.available, price)


def _facts_order(facts: ItemFacts) -> tuple[object, ...]:
    # All fields: texts that hold the hash's separator can share a hash, and the price is not in it.
    *others, price = msgspec.structs.astuple(facts)
    return (*others, -1.0 if price is None else price)


def _semantics_of(fact: ItemSemantics) -> Semantics:
    return Semantics(fact.ts, fact.extractor_version, fact.content_hash, fact.vector)


def _semantics_order(semantics: Semantics) -> tuple[float, int, str, bytes]:
    return (semantics.ts, semantics.extractor_version, semantics.content_hash, semantics.vector)


T = TypeVar("T")


def _newest(a: T | None, b: T | None, order: Callable[[T], Any]) -> T | None:
    if a is None or b is None:
        return a if b is None else b
    return b if order(b) > order(a) else a


def _smallest(a: tuple[int, ...], b: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Bottom-k sketch: the k smallest distinct hashes. A union is exact, so its bytes are the same in any order."""
    if len(b) == 1:  # an interaction: what a fold does most
        at = bisect_left(a, b[0])
        return a if at == size or (at < len(a) and a[at] == b[0]) else (*a[:at], b[0], *a[at : size - 1])
    return tuple(sorted(set(a) | set(b))[:size])


def _newest_buckets(buckets: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    return {bucket: buckets[bucket] for bucket in sorted(buckets)[-MAX_POPULARITY_BUCKETS:]}


# --- positions ------------------------------------------------------------------------------------------


def _positions(held: dict[str, tuple[int, int]], sources: Iterable[Source | None]) -> dict[str, tuple[int, int]]:
    return _merge_positions(held, {}, [s for s in sources if s is not None])


def _merge_positions(
    a: dict[str, tuple[int, int]], b: dict[str, tuple[int, int]], sources: Iterable[Source] = ()
) -> dict[str, tuple[int, int]]:
    merged = dict(a)
    for topic, partition, offset in [(t, p, o) for t, (p, o) in b.items()] + [
        (s.topic, s.partition, s.offset) for s in sources
    ]:
        known = merged.get(topic)
        # A key changes its partition only when a topic is grown; the newer partition then counts.
        if known is None or offset > known[1] or partition != known[0]:
            merged[topic] = (partition, offset)
    return merged
