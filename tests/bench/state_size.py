"""How many bytes a user's state takes as it is stored and sent, against 32 KiB.

At its bounds: 50 interactions and 32 reviews of 4 pairs each, with vectors of the default space, as long phrases and
quotes as events may have, and ids of 36 characters as UUIDs have. On real data, where there is any: the median of all
users of the Musical Instruments reviews, with opinions of the offline extractor; these are extracted once, in minutes,
and kept where `finestream evaluate` keeps them.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Final

from shared import events, topics
from shared.events import MAX_PAIR_BYTES, MAX_QUOTE_CHARS, Interaction, Opinions, Pair, Source
from shared.experiments.tasks import DataSpec, events_of
from shared.graph.fold import UserFact, fold_user
from shared.graph.state import MAX_INTERACTIONS, MAX_PAIRS_PER_REVIEW, MAX_REVIEWS, UserState, to_bytes
from shared.space import Space, load
from tests.bench.data import ROOT, instruments
from tests.bench.figure import Figure, figure

BOUND: Final = 32 * 1024
GOAL: Final = 1.0
ID_CHARS: Final = 36
SOURCE: Final = Source(topics.OPINIONS, 0, 1_000_000, 1.7e9)
AT_BOUNDS: Final = (
    f"bytes of a user's state at its bounds ({MAX_INTERACTIONS} interactions, {MAX_REVIEWS} reviews of "
    f"{MAX_PAIRS_PER_REVIEW} pairs, phrase and quote of {MAX_PAIR_BYTES} bytes together, ids of {ID_CHARS}) "
    "against 32 KiB; ratio: 32 KiB / size"
)
REAL: Final = (
    "bytes of the median user's state of the Musical Instruments reviews, opinions by the offline extractor, "
    "against 32 KiB; ratio: 32 KiB / size"
)


def figures() -> list[Figure]:
    return [_at_bounds(), *([_real()] if instruments().exists() else [])]


def _at_bounds() -> Figure:
    parts = {"with ids of 14 characters, bytes": size(bounded(14))}
    ours = size(bounded(ID_CHARS))
    return figure(
        "state_size at its bounds", AT_BOUNDS, ours, BOUND, "bytes", goal=GOAL, less_is_better=True, parts=parts
    )


def _real() -> Figure:
    sizes = sorted(size(user) for user in real_users())
    parts = {
        "users": len(sizes),
        "99th percentile, bytes": statistics.quantiles(sizes, n=100)[98],
        "largest, bytes": sizes[-1],
    }
    ours = statistics.median(sizes)
    return figure("state_size of real users", REAL, ours, BOUND, "bytes", goal=GOAL, less_is_better=True, parts=parts)


def size(user: UserState) -> int:
    return len(to_bytes(user))


def bounded(id_chars: int) -> UserState:
    """A user of more facts than are kept."""
    user = UserState(_id(0, id_chars))
    facts = list(_facts(user.user_id, load(), id_chars))
    return fold_user(user, facts, [SOURCE] * len(facts))


def _facts(user_id: str, space: Space, id_chars: int) -> Iterator[UserFact]:
    for n in range(2 * MAX_INTERACTIONS):
        yield Interaction(event_id=_id(n, id_chars), user_id=user_id, item_id=_id(n, id_chars), ts=1.6e9 + n)
    names = cycle(space.attribute_names)
    for n in range(2 * MAX_REVIEWS):
        yield Opinions(
            review_id=_id(n, id_chars), user_id=user_id, item_id=_id(n, id_chars), ts=1.6e9 + n, rating=4.0,
            extractor="offline", extractor_version=1, content_hash=events.content_hash(str(n)), space=space.name,
            pairs=[_pair(name, space) for name in islice(names, 2 * MAX_PAIRS_PER_REVIEW)],
            vector=bytes(space.embedding_dim), source=SOURCE,
        )  # fmt: skip


def _pair(attribute: str, space: Space) -> Pair:
    quote = "q" * MAX_QUOTE_CHARS
    return Pair(attribute, "p" * (MAX_PAIR_BYTES - len(quote)), bytes(space.opinion_dim), 1, 300, 420, quote)


def _id(n: int, chars: int) -> str:
    return f"{n:0{chars}d}"


def real_users() -> Iterator[UserState]:
    """Every user of the file, folded as graph_updater folds them."""
    spec = DataSpec("musical_instruments", reviews=instruments(), cache=ROOT / ".run/experiments")
    of_user: dict[str, list[UserFact]] = defaultdict(list)
    for event in events_of(spec):
        if isinstance(event, Interaction | Opinions):
            of_user[event.user_id].append(event)
    return (fold_user(UserState(user_id), facts) for user_id, facts in of_user.items())
