"""What an item's reviewers say, kept small: the quotes that an explanation may use.

Of an item's review slots at most KEPT opinions an attribute are kept, positive before neutral, the newest
first, as msgpack bytes, a few hundred an item; by attribute, so that only what is looked for is unpacked. What
complains is never a reason to recommend.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from sys import getsizeof, intern
from typing import Final

import msgspec
from msgspec import Struct

from shared.events import user_hash
from shared.graph.state import ReviewSlot

KEPT: Final = 3


class Opinion(Struct, frozen=True, gc=False, array_like=True):
    attribute: str
    phrase: str
    quote: str
    review_id: str
    polarity: int
    vector: bytes  # (c,) int8
    by: int  # user_hash of who said it


Packed = Mapping[str, bytes]  # by attribute

NOTHING: Final[Packed] = {}
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(tuple[Opinion, ...])


def pack(reviews: Sequence[ReviewSlot]) -> Packed:
    """The opinions worth quoting. `reviews` are newest first."""
    by_attribute: dict[str, list[Opinion]] = defaultdict(list)
    for slot in reviews:
        by = user_hash(slot.other_id)
        for pair in slot.pairs:
            if pair.polarity >= 0 and pair.quote:
                by_attribute[pair.attribute].append(
                    Opinion(pair.attribute, pair.phrase, pair.quote, slot.review_id, pair.polarity, pair.vector, by)
                )
    kept = {
        intern(attribute): _ENCODER.encode(sorted(found, key=lambda o: -o.polarity)[:KEPT])
        for attribute, found in by_attribute.items()
    }
    return kept or NOTHING


def unpack(packed: Packed, attribute: str) -> tuple[Opinion, ...]:
    """Those of one attribute."""
    return _DECODER.decode(packed[attribute]) if attribute in packed else ()


def held_bytes(packed: Packed) -> int:
    return sum(map(getsizeof, packed.values()), getsizeof(packed)) if packed else 0
