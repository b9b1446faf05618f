"""What pairs are worth: the same facts with the pairs of other reviews, or with none.

Ratings, times and the embeddings of texts stay. Where shuffling costs as little as leaving out, what was extracted of a
review tells no more than that something was.
"""

import random
from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec.structs import replace

from shared.events import Event, Opinions

Pairs = Literal["found", "shuffled", "none"]


def with_pairs(events: Iterable[Event], pairs: Pairs, seed: int) -> Iterator[Event]:
    """`shuffled`: each review has all that was found in another one, drawn at random."""
    if pairs == "found":
        yield from events
        return
    held = list(events)
    reviews = [event for event in held if isinstance(event, Opinions)]
    given = [review.pairs if pairs == "shuffled" else [] for review in reviews]
    random.Random(seed).shuffle(given)  # noqa: S311  # no secret
    drawn = iter(given)
    for event in held:
        yield replace(event, pairs=next(drawn)) if isinstance(event, Opinions) else event
