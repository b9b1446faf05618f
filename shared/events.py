"""Every event that travels on Kafka: its fields, its bounds, and the one way to decode it.

JSON Schema is exported from these Structs (`finestream schema`). Unknown fields are ignored, so a producer
may be newer than we are. `decode` either returns a valid event or raises `InvalidEvent` with a reason from a
bounded set (it becomes a metric label and a dead letter's header) and the field at fault.

gc=False: Python's collector need not look for cycles in what can hold none, and walking the thousands of events and
cached states again and again took a sixth of graph_updater's time.
"""

import hashlib
import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from shared import topics

MAX_ID_CHARS: Final = 256
MAX_TEXT_BYTES: Final = 32 * 1024
MAX_TITLE_CHARS: Final = 1024
MAX_QUOTE_CHARS: Final = 120
MAX_PHRASE_CHARS: Final = 120
MAX_PAIR_BYTES: Final = 156  # of a pair's phrase and quote together: 128 pairs make most of a user's state
MAX_CATEGORIES: Final = 32
EARLIEST: Final = 788_918_400.0  # 1995-01-01T00:00:00Z; also what a millisecond mistaken for a second fails
FUTURE_TOLERANCE_SECONDS: Final = 300.0

Reason = Literal[
    "not_json", "wrong_type", "missing_field", "out_of_bounds", "bad_id", "too_old", "in_future",
    "empty_text", "too_large", "handler_error",
]  # fmt: skip

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
Seconds = Annotated[float, Meta(description="seconds since 1970-01-01T00:00:00Z")]
Polarity = Annotated[int, Meta(ge=-1, le=1, description="-1 negative, 0 neutral, 1 positive")]


class InvalidEvent(Exception):
    """An event that can never succeed. `reason` is one of `Reason`; `field` is empty where none is at fault."""

    def __init__(self, reason: Reason, message: str, field: str = "") -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.field = field


class Source(Struct, frozen=True, gc=False, array_like=True):
    """Where a fact came from, and when the broker took it: what `after` and freshness are measured by."""

    topic: str
    partition: int
    offset: int
    appended_at: Seconds


class Interaction(Struct, frozen=True, gc=False, kw_only=True):
    """A user met an item. The same event_id again is the same fact."""

    event_id: Id
    user_id: Id
    item_id: Id
    ts: Seconds
    kind: Annotated[str, Meta(min_length=1, max_length=32)] = "click"


class Review(Struct, frozen=True, gc=False, kw_only=True):
    """A user's words about an item. A newer ts under the same review_id is an edit: it replaces the text."""

    review_id: Id
    user_id: Id
    item_id: Id
    ts: Seconds
    text: str
    title: Annotated[str, Meta(max_length=MAX_TITLE_CHARS)] = ""
    rating: Annotated[float, Meta(ge=0, le=5, description="1 to 5 stars; 0 where there are none")] = 0.0


class Item(Struct, frozen=True, gc=False, kw_only=True):
    """An item of the catalogue. `available: false` withdraws it; a record never carries a null value."""

    item_id: Id
    ts: Seconds
    title: Annotated[str, Meta(max_length=MAX_TITLE_CHARS)] = ""
    description: str = ""
    brand: Annotated[str, Meta(max_length=MAX_TITLE_CHARS)] = ""
    categories: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]], Meta(max_length=MAX_CATEGORIES)
    ] = msgspec.field(default_factory=list)
    available: bool = True
    price: Annotated[float, Meta(ge=0, description="in the catalogue's currency")] | msgspec.UnsetType = msgspec.UNSET


class Pair(Struct, frozen=True, gc=False, array_like=True):
    """One opinion on one attribute, with the words that prove it.

    `vector` holds c int8 numbers (unit length scaled by 127) of the phrase in the event's space; `start` and
    `end` are code points of the review's text: text[start:end] == quote.
    """

    attribute: Annotated[str, Meta(min_length=1, max_length=64)]
    phrase: Annotated[str, Meta(max_length=MAX_PHRASE_CHARS)]
    vector: bytes
    polarity: Polarity
    start: Annotated[int, Meta(ge=0)]
    end: Annotated[int, Meta(ge=0)]
    quote: Annotated[str, Meta(max_length=MAX_QUOTE_CHARS)]


class Opinions(Struct, frozen=True, gc=False, kw_only=True):
    """What the extractor found in one review; published also when it found nothing.

    `vector` is the review's own embedding as E int8 numbers (empty where there is none): what an item without
    a text is known by.
    """

    review_id: Id
    user_id: Id
    item_id: Id
    ts: Seconds
    rating: float = 0.0
    extractor: str
    extractor_version: int
    content_hash: str
    space: str
    pairs: list[Pair]
    vector: bytes = b""
    source: Source


class ItemSemantics(Struct, frozen=True, gc=False, kw_only=True):
    """The embedding of an item's text as E int8 numbers (unit length scaled by 127)."""

    item_id: Id
    ts: Seconds
    space: str
    extractor_version: int
    content_hash: str
    vector: bytes
    source: Source


class InteractionEdge(Struct, frozen=True, gc=False, kw_only=True, tag_field="kind", tag="interaction"):
    """Some user met the item. `user_hash` is all that is kept of who: popularity counts distinct hashes."""

    item_id: Id
    ts: Seconds
    user_hash: int
    source: Source


class ReviewEdge(Struct, frozen=True, gc=False, kw_only=True, tag_field="kind", tag="review"):
    """A review as its item sees it. `erased_at` > 0 blanks the slot (its pairs are then empty)."""

    item_id: Id
    review_id: Id
    user_id: Id
    ts: Seconds
    rating: float = 0.0
    extractor_version: int = 0
    pairs: list[Pair] = msgspec.field(default_factory=list)
    vector: bytes = b""
    erased_at: Seconds = 0.0
    source: Source


ItemEdge = InteractionEdge | ReviewEdge


class ItemState(Struct, frozen=True, gc=False, kw_only=True):
    """Tells ranking that an item's state has moved to `version`; the state itself comes from GetItems.

    `changes` says which facts this version is the first to reflect: (kind of the event, its append time).
    """

    item_id: Id
    version: int
    available: bool
    changes: list[tuple[str, Seconds]] = msgspec.field(default_factory=list)


class Impression(Struct, frozen=True, gc=False, kw_only=True):
    """What a user was shown, in order.

    `propensities[p]` is the probability with which `policy` shows item_ids[p] at place p, given the candidates; none
    where chance took no part. `explored` are the places, from 0, that were given away by chance, `pinned` those
    that a rule gave away. `variant` is whose bundle ranked it in an experiment; empty: the current one, as without any.
    """

    request_id: Id
    user_id: Id
    ts: Seconds
    item_ids: list[Id]
    rung: str
    model_version: str
    policy: str = ""
    variant: str = ""
    propensities: list[Annotated[float, Meta(gt=0, le=1)]] = msgspec.field(default_factory=list)
    explored: list[Annotated[int, Meta(ge=0)]] = msgspec.field(default_factory=list)
    pinned: list[Annotated[int, Meta(ge=0)]] = msgspec.field(default_factory=list)


class Erasure(Struct, frozen=True, gc=False, kw_only=True):
    """Facts of this user with ts <= erased_at are ignored for ever after, also on replay."""

    user_id: Id
    erased_at: Seconds


Event = (
    Interaction | Review | Item | Opinions | ItemSemantics | InteractionEdge | ReviewEdge | ItemState
    | Impression | Erasure
)  # fmt: skip

TYPE_OF: Final[Mapping[str, type]] = {
    topics.INTERACTIONS: Interaction,
    topics.REVIEWS: Review,
    topics.ITEMS: Item,
    topics.OPINIONS: Opinions,
    topics.ITEM_SEMANTICS: ItemSemantics,
    topics.ITEM_EDGES: ItemEdge,  # type: ignore[dict-item]  # a tagged union, which msgspec takes as a type
    topics.ITEM_STATES: ItemState,
    topics.IMPRESSIONS: Impression,
    topics.ERASURES: Erasure,
}

_DECODERS: Final[Mapping[str, msgspec.json.Decoder[Any]]] = {
    topic: msgspec.json.Decoder(kind) for topic, kind in TYPE_OF.items()
}
_ID_FIELDS: Final[Mapping[type, tuple[str, ...]]] = {
    kind: tuple(
        name for name in ("event_id", "review_id", "user_id", "item_id", "request_id") if name in kind.__struct_fields__
    )
    for kind in get_args(Event)
}
# One id comes as it is, which a join takes as its characters.
_IDS: Final[Mapping[type, Callable[[Any], Iterable[str]]]] = {kind: attrgetter(*of) for kind, of in _ID_FIELDS.items()}
_ENCODER: Final = msgspec.json.Encoder()
_MISSING = re.compile(r"missing required field `(\w+)`")
_PATH = re.compile(r"at `\$\.?([\w.\[\]]*)`")


def encode(event: Event) -> bytes:
    """The event as it travels."""
    return _ENCODER.encode(event)


def key_of(event: Event) -> bytes:
    """The record key: item_id for what belongs to an item, else user_id."""
    if isinstance(event, Item | ItemSemantics | InteractionEdge | ReviewEdge | ItemState):
        return event.item_id.encode()
    return event.user_id.encode()


def time_of(event: Event) -> float:
    """Event time in seconds since 1970; 0.0 where an event has none."""
    if isinstance(event, Erasure):
        return event.erased_at
    return 0.0 if isinstance(event, ItemState) else event.ts


def decode(topic: str, value: bytes | None, now: float | None = None) -> Event:
    """Decode and validate one record of `topic`.

    `now` (seconds since 1970, default: the clock) bounds how far in the future an event may lie.
    Raises InvalidEvent with the reason, the field and a sentence that says what to change.
    """
    if value is None:
        raise InvalidEvent("missing_field", "the record has no value; withdraw an item with available: false")
    try:
        event: Event = _DECODERS[topic].decode(value)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidEvent("not_json", f"the value is not JSON: {error}") from None
    except RecursionError:  # also in a field that we do not know
        raise InvalidEvent("not_json", "the value is nested too deep to be read") from None
    _check(event, time.time() if now is None else now)
    return event


def _invalid(message: str) -> InvalidEvent:
    missing = _MISSING.search(message)
    if missing:
        return InvalidEvent("missing_field", f"{missing[1]} is required", missing[1])
    path = _PATH.search(message)
    field = path[1] if path else ""
    wrong_type = ", got `" in message
    return InvalidEvent("wrong_type" if wrong_type else "out_of_bounds", f"{field or 'the value'}: {message}", field)


def _check(event: Event, now: float) -> None:
    kind = type(event)
    if not "".join(_IDS[kind](event)).isprintable():  # all at once, since nearly all are
        for field in _ID_FIELDS[kind]:
            _check_id(field, getattr(event, field))
    if not EARLIEST <= time_of(event) <= now + FUTURE_TOLERANCE_SECONDS and not isinstance(event, ItemState):
        raise _bad_time("erased_at" if isinstance(event, Erasure) else "ts", time_of(event))
    if isinstance(event, Review):
        _check_text("text", event.text)
        if not event.text.strip():
            raise InvalidEvent("empty_text", "text is empty; send an interaction instead", "text")
    elif isinstance(event, Item):
        _check_text("description", event.description)
    elif isinstance(event, Opinions | ReviewEdge):
        _check_pairs(event.pairs)


def _check_id(field: str, value: str) -> None:
    # Control characters and surrogates break logs, terminals and stores downstream of us; none is printable.
    if not value.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in value):
        raise InvalidEvent("bad_id", f"{field} has control characters", field)


def _bad_time(field: str, ts: float) -> InvalidEvent:
    if not ts >= EARLIEST:  # NaN too
        return InvalidEvent("too_old", f"{field} lies before 1995; send seconds since 1970", field)
    return InvalidEvent(
        "in_future", f"{field} lies more than 5 minutes in the future; send seconds, not milliseconds", field
    )


def _check_pairs(pairs: Iterable[Pair]) -> None:
    for pair in pairs:
        size = utf8_bytes(pair.phrase) + utf8_bytes(pair.quote)
        if size > MAX_PAIR_BYTES:
            raise InvalidEvent(
                "too_large", f"pairs: phrase and quote have {size} bytes; at most {MAX_PAIR_BYTES} are taken", "pairs"
            )


def utf8_bytes(text: str) -> int:
    """How many bytes the text takes where it is stored and sent."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _check_text(field: str, text: str) -> None:
    size = utf8_bytes(text)
    if size > MAX_TEXT_BYTES:
        raise InvalidEvent("too_large", f"{field} has {size} bytes; at most {MAX_TEXT_BYTES} are taken", field)


def content_hash(*parts: str) -> str:
    """128 bits, hex, of the texts: equal texts are extracted and embedded once."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()


def user_hash(user_id: str) -> int:
    """63 bits of a user id: what a popularity sketch keeps instead of the id."""
    return int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest(), "little") >> 1
