"""The users app: interactions, opinions and erasures joined into users, and their edges sent to the items.

A batch is one step under the users' lock: load, join, publish the edges and write, return. Edges depend on the
fact alone, so a batch that comes again publishes the same edges, whatever was written before; a review of before
its user's erasure is published as a blank, whichever of the two came first. Only an erasure needs the state: it
blanks the slots that the state still has, so with one in the batch the edges must be in Kafka before the write.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.graph_updater import metrics
from services.graph_updater.changes import Changes
from services.graph_updater.nodes import Nodes
from services.graph_updater.sender import Sender
from services.graph_updater.store import REVIEWERS, Store
from shared import topics
from shared.events import Erasure, Interaction, InteractionEdge, Opinions, ReviewEdge, Source
from shared.graph import fold
from shared.graph.checks import Checks
from shared.graph.fold import UserFact
from shared.graph.state import ItemNode, UserState
from shared.metrics import EVENT_TO_VISIBLE
from shared.streams import Delivery, Refused

FIND_ITEMS = 200  # of an erased user, read together


class Dirty(Protocol):
    def note(self, user_ids: Iterable[str]) -> None:
        """Remember those whose vectors may lack some of their items."""


@dataclass
class _Group:
    """The facts of one user in a batch."""

    deliveries: list[Delivery] = field(default_factory=list)
    facts: list[UserFact] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)


class UsersHandler:
    """The handler of the stream `users`. Raises Unavailable as the store and Kafka do."""

    def __init__(
        self, users: Nodes[UserState], items: Nodes[ItemNode], store: Store, sender: Sender, checks: Checks,
        changes: Changes, dirty: Dirty,
    ) -> None:  # fmt: skip
        self._users = users
        self._items = items
        self._store = store
        self._sender = sender
        self._checks = checks
        self._changes = changes
        self._dirty = dirty

    async def __call__(self, deliveries: Sequence[Delivery]) -> Sequence[Refused]:
        groups, refused = self._group(deliveries)
        if not groups:
            return refused
        async with self._users.lock:
            before = await self._users.load(list(groups))
            after = self._join(groups, before)
            changed = [user for user in after.values() if not _unchanged(before.get(user.user_id), user)]
            if any(isinstance(fact, Erasure) for group in groups.values() for fact in group.facts):
                # First, so that of reviews on their way to their items none is missed: either it is there when it is
                # looked for, or whoever writes it sees that its user has been forgotten.
                await self._write(changed, before)
                await self._send(await self._edges(groups, before, after))
            else:
                await _both(self._send(await self._edges(groups, before, after)), self._write(changed, before))
        _observe(groups.values())
        return refused

    async def _write(self, users: Sequence[UserState], before: dict[str, UserState]) -> None:
        if users:
            written = await self._users.write(users, before)
            self._changes.tell(written)
            self._dirty.note(written)

    def _group(self, deliveries: Sequence[Delivery]) -> tuple[dict[str, _Group], list[Refused]]:
        groups: dict[str, _Group] = {}
        refused = []
        for delivery in deliveries:
            event = delivery.event
            problem = self._checks.problem(event)
            if problem:
                refused.append(Refused(delivery, "out_of_bounds", problem))
            elif isinstance(event, Interaction | Opinions | Erasure):
                group = groups.setdefault(event.user_id, _Group())
                group.deliveries.append(delivery)
                group.facts.append(event)
                group.sources.append(source_of(delivery))
        return groups, refused

    def _join(self, groups: dict[str, _Group], before: dict[str, UserState]) -> dict[str, UserState]:
        with metrics.JOIN_SECONDS.labels("users").time():
            return {
                node: fold.fold_user(before.get(node, UserState(node)), group.facts, group.sources)
                for node, group in groups.items()
            }

    async def _edges(
        self, groups: dict[str, _Group], before: dict[str, UserState], after: dict[str, UserState]
    ) -> list[InteractionEdge | ReviewEdge]:
        edges: list[InteractionEdge | ReviewEdge] = []
        for node, group in groups.items():
            for fact, source in zip(group.facts, group.sources, strict=True):
                if isinstance(fact, Erasure):
                    edges += await self._blanks(before.get(node, UserState(node)), after[node].erased_at, source)
                elif isinstance(fact, Opinions) and fact.ts <= after[node].erased_at:
                    edges.append(
                        fold.blank_of(node, fact.item_id, fact.review_id, fact.ts, after[node].erased_at, source)
                    )
                else:
                    edges.append(fold.edges_of(fact, source))
        return edges

    async def _blanks(self, user: UserState, erased_at: float, source: Source) -> list[ReviewEdge]:
        """For every slot with a review of the user, as their own state or an item's knows it."""
        slots = {(slot.other_id, slot.review_id): slot.ts for slot in user.reviews}
        async with self._items.lock:  # a batch under way may have read the user before they were forgotten
            found = await self._store.find("items", REVIEWERS, user.user_id)
        for start in range(0, len(found), FIND_ITEMS):
            for item in (await self._items.read(found[start : start + FIND_ITEMS])).values():
                for slot in item.reviews:
                    if slot.other_id == user.user_id and not slot.erased_at:
                        key = (item.item_id, slot.review_id)
                        slots[key] = max(slot.ts, slots.get(key, 0.0))
        return [
            fold.blank_of(user.user_id, item_id, review_id, ts, erased_at, source)
            for (item_id, review_id), ts in slots.items()
            if ts <= erased_at
        ]

    async def _send(self, edges: Sequence[InteractionEdge | ReviewEdge]) -> None:
        await self._sender.send_all([(topics.ITEM_EDGES, edge) for edge in edges])
        for kind, count in Counter(map(_kind, edges)).items():
            metrics.EDGES.labels(kind).inc(count)


def _kind(edge: InteractionEdge | ReviewEdge) -> str:
    if isinstance(edge, InteractionEdge):
        return "interaction"
    return "blank" if edge.erased_at else "review"


def source_of(delivery: Delivery) -> Source:
    """Where the user's own record lies: of opinions, the review that they were found in."""
    return delivery.event.source if isinstance(delivery.event, Opinions) else delivery.source


async def _both(first: Awaitable[None], second: Awaitable[None]) -> None:
    """Wait for both to end, also where one fails: neither may go on when the lock is given up."""
    for result in await asyncio.gather(first, second, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _unchanged(before: UserState | None, after: UserState) -> bool:
    return before is not None and before.positions == after.positions and fold.same_user(before, after)


def _observe(groups: Iterable[_Group]) -> None:
    now = time.time()
    visible = {kind: EVENT_TO_VISIBLE.labels(kind) for kind in ("interaction", "review")}
    for group in groups:
        for fact, source in zip(group.facts, group.sources, strict=True):
            if not isinstance(fact, Erasure):
                kind = "interaction" if isinstance(fact, Interaction) else "review"
                visible[kind].observe(max(0.0, now - source.appended_at))
