"""What an item's reviewers say, kept small: the quotes that an explanation may use.

Of an item's review slots at most KEPT opinions an attribute are kept, positive before neutral, the newest
first, as msgpack bytes: a few hundred bytes an item. What complains is never a reason to recommend.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from shared.events import user_hash
from shared.graph.state import ReviewSlot

KEPT: Final = 3


class Opinion(Struct, frozen=True, array_like=True):
    attribute: str
    phrase: str
    quote: str
    review_id: str
    polarity: int
    vector: bytes  # (c,) int8
    by: int  # user_hash of who said it


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(tuple[Opinion, ...])


def pack(reviews: Sequence[ReviewSlot]) -> bytes:
    """The opinions worth quoting, as bytes; empty where there are none. `reviews` are newest first."""
    by_attribute: dict[str, list[Opinion]] = defaultdict(list)
    for slot in reviews:
        by = user_hash(slot.other_id)
        for pair in slot.pairs:
            if pair.polarity >= 0 and pair.quote:
                by_attribute[pair.attribute].append(
                    Opinion(pair.attribute, pair.phrase, pair.quote, slot.review_id, pair.polarity, pair.vector, by)
                )
    kept = [o for found in by_attribute.values() for o in sorted(found, key=lambda o: -o.polarity)[:KEPT]]
    return _ENCODER.encode(kept) if kept else b""


def unpack(data: bytes) -> tuple[Opinion, ...]:
    return _DECODER.decode(data) if data else ()
