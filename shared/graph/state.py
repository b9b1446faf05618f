"""A node's bounded state: everything that is known of one user or one item, in a few KiB.

States are values: joins (fold.py) return new ones. They are stored and sent as msgpack arrays, so fields are
only ever appended. `positions` and `version` say what a state reflects and are no part of what is compared.
"""

from typing import Final

import msgspec
from msgspec import Struct

from shared.events import Pair

MAX_INTERACTIONS: Final = 50
MAX_REVIEWS: Final = 32
MAX_PAIRS_PER_REVIEW: Final = 4
POPULARITY_BUCKET_SECONDS: Final = 30 * 86_400
MAX_POPULARITY_BUCKETS: Final = 12
BUCKET_HASHES: Final = 64
TOTAL_HASHES: Final = 256


class InteractionSlot(Struct, frozen=True, gc=False, array_like=True):
    """One interaction of a user; the newest by (ts, event_id) are kept."""

    ts: float
    event_id: str
    item_id: str
    kind: str


class ReviewSlot(Struct, frozen=True, gc=False, array_like=True):
    """One review, as its user (`other_id` is the item) or as its item (`other_id` is the user) keeps it.

    Of two versions of one slot the one with the higher place wins, then a blank, then (ts, extractor version).
    """

    other_id: str
    review_id: str
    ts: float
    erased_at: float
    extractor_version: int
    rating: float
    pairs: tuple[Pair, ...]
    vector: bytes

    @property
    def place(self) -> float:
        """Where the slot stands among the others: the newest are kept."""
        return max(self.ts, self.erased_at)


class ItemFacts(Struct, frozen=True, gc=False, array_like=True):
    """An item's own description: the newest by (ts, content hash), of equal ones the dearer."""

    ts: float
    content_hash: str
    title: str
    description: str
    brand: str
    categories: tuple[str, ...]
    available: bool
    price: float | None = None


class Semantics(Struct, frozen=True, gc=False, array_like=True):
    """The embedding of an item's text, E int8 numbers: the newest by (ts, extractor version, content hash)."""

    ts: float
    extractor_version: int
    content_hash: str
    vector: bytes


class UserState(Struct, frozen=True, gc=False, array_like=True):
    user_id: str
    interactions: tuple[InteractionSlot, ...] = ()  # newest first
    reviews: tuple[ReviewSlot, ...] = ()  # newest first
    erased_at: float = 0.0
    positions: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)  # topic -> partition, offset
    version: int = 0


class ItemNode(Struct, frozen=True, gc=False, array_like=True):
    item_id: str
    facts: ItemFacts | None = None
    semantics: Semantics | None = None
    reviews: tuple[ReviewSlot, ...] = ()  # newest first
    popularity: dict[int, tuple[int, ...]] = msgspec.field(default_factory=dict)  # bucket -> smallest hashes
    popularity_total: tuple[int, ...] = ()  # smallest hashes of all time
    last_seen: float = 0.0  # newest event time of any fact
    positions: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    version: int = 0

    @property
    def available(self) -> bool:
        """An item without a description yet may be shown: its reviews are all we have of many catalogues."""
        return self.facts is None or self.facts.available


class _Ts(Struct, frozen=True, gc=False, array_like=True):
    """The first field of an InteractionSlot; what else is there is passed over."""

    ts: float


class _ReviewTs(Struct, frozen=True, gc=False, array_like=True):
    """The first fields of a ReviewSlot."""

    other_id: str
    review_id: str
    ts: float


class _UserGlance(Struct, frozen=True, gc=False, array_like=True):
    """A UserState, as far as a glance needs it."""

    user_id: str
    interactions: tuple[_Ts, ...] = ()
    reviews: tuple[_ReviewTs, ...] = ()
    erased_at: float = 0.0
    positions: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    version: int = 0


_ENCODER: Final = msgspec.msgpack.Encoder()
_USER: Final = msgspec.msgpack.Decoder(UserState)
_USER_GLANCE: Final = msgspec.msgpack.Decoder(_UserGlance)
_ITEM: Final = msgspec.msgpack.Decoder(ItemNode)


def to_bytes(state: UserState | ItemNode) -> bytes:
    return _ENCODER.encode(state)


def user_from_bytes(data: bytes) -> UserState:
    """Raises msgspec.DecodeError on foreign bytes."""
    return _USER.decode(data)


def glance(data: bytes) -> tuple[int, float]:
    """A user's version and watermark, in a fifth of the time that decoding the state takes.

    Raises msgspec.DecodeError on foreign bytes.
    """
    seen = _USER_GLANCE.decode(data)
    return seen.version, watermark(seen)


def item_from_bytes(data: bytes) -> ItemNode:
    """Raises msgspec.DecodeError on foreign bytes."""
    return _ITEM.decode(data)


def watermark(user: UserState | _UserGlance) -> float:
    """Newest event time that the state reflects, seconds since 1970; 0.0 for a user never seen."""
    return max(
        user.interactions[0].ts if user.interactions else 0.0,
        user.reviews[0].ts if user.reviews else 0.0,
    )
