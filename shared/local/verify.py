"""Was anything lost, and is the live state what the log says? Both are answered from the archive."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from shared import archive, folding, topics
from shared.dead_letters import Letter
from shared.events import Event, Interaction, Item, Opinions, Reason, Source
from shared.graph.state import ItemNode, UserState
from shared.local.ledger import Ledger
from shared.space import DEFAULT_SPACE

POLL_SECONDS: Final = 0.5
Node = TypeVar("Node", UserState, ItemNode)


@dataclass
class Archived:
    """What the archive holds: ids by topic, pairs found by review id, and the states that its facts fold to."""

    ids: dict[str, set[str]]
    pairs: dict[str, int]
    users: dict[str, UserState]
    items: dict[str, ItemNode]


@dataclass(frozen=True)
class Accounts:
    """Every id sent ends in exactly one of three places. `unanswered`: reviews with neither opinions nor letter."""

    lost: dict[str, list[str]]  # topic -> ids in neither the archive nor the dead letters
    dead: dict[str, Reason]  # by id
    unanswered: list[str]

    @property
    def lost_count(self) -> int:
        return sum(map(len, self.lost.values()))


class _ReviewId(Struct):
    review_id: str


def read(url: str, *, space: str = DEFAULT_SPACE) -> Archived:
    """Read the whole archive once and fold it. Raises BadArchive when it is damaged."""
    users, items = folding.users(), folding.items()
    ids: dict[str, set[str]] = {topic: set() for topic in (topics.INTERACTIONS, topics.REVIEWS, topics.ITEMS)}
    found = Archived(ids, {}, users.states, items.states)
    for row in archive.read(url, [topics.REVIEWS]):
        found.ids[topics.REVIEWS].add(msgspec.json.decode(row.value, type=_ReviewId).review_id)
    for event, _ in archive.events_of(url, topics.FOLDED, space=space):
        _note(found, event)
        folding.give(event, users, items)
    users.end()
    items.end()
    return found


def appended_at(url: str, wanted: Collection[tuple[str, int, int]]) -> dict[tuple[str, int, int], float]:
    """When the broker took these records: (topic, partition, offset) -> seconds since 1970."""
    names = sorted({topic for topic, _, _ in wanted})
    rows = ((row.topic, row.partition, row.offset, row.appended_at) for row in archive.read(url, names))
    return {
        (topic, partition, offset): at for topic, partition, offset, at in rows if (topic, partition, offset) in wanted
    }


def account(ledger: Ledger, found: Archived, letters: Sequence[Letter]) -> Accounts:
    """Where every id of the ledger ended."""
    reason_at = {_place(letter.record.source): letter.reason for letter in letters}
    dead = {
        sent_id: reason_at[topic, *place]
        for topic, ids in ledger.sent.items()
        for sent_id, place in ids.items()
        if (topic, *place) in reason_at
    }
    lost = {topic: sorted(ids.keys() - found.ids[topic] - dead.keys()) for topic, ids in ledger.sent.items()}
    unanswered = sorted(ledger.sent[topics.REVIEWS].keys() - found.pairs.keys() - dead.keys())
    return Accounts({topic: ids for topic, ids in lost.items() if ids}, dead, unanswered)


async def differing(
    folded: dict[str, Node],
    live: Callable[[Sequence[str]], Awaitable[dict[str, Node]]],
    same: Callable[[Node, Node], bool],
    within_seconds: float,
) -> list[str]:
    """Ids whose live state is not what the archive folds to, once none changes that or the time is over.

    The archive is read first, so the live state may still be on its way to it, and only then.
    """
    deadline, waiting = time.monotonic() + within_seconds, sorted(folded)
    while True:
        states = await live(waiting)
        waiting = [node for node in waiting if node not in states or not same(states[node], folded[node])]
        if not waiting or time.monotonic() > deadline:
            return waiting
        await asyncio.sleep(POLL_SECONDS)


def _note(found: Archived, event: Event) -> None:
    if isinstance(event, Interaction):
        found.ids[topics.INTERACTIONS].add(event.event_id)
    elif isinstance(event, Opinions):
        found.pairs[event.review_id] = len(event.pairs)
    elif isinstance(event, Item):
        found.ids[topics.ITEMS].add(event.item_id)


def _place(source: Source) -> tuple[str, int, int]:
    return (source.topic, source.partition, source.offset)
