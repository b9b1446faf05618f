"""The items app: descriptions, embeddings and edges joined into items, which are then announced.

A batch is one step under the items' lock: load, join, write, announce, return. `announcer.py` says how no change
stays unannounced.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.graph_updater import metrics
from services.graph_updater.announcer import Announcer, Change
from services.graph_updater.nodes import Nodes
from services.graph_updater.sender import Sender
from services.graph_updater.store import DUE, NO, YES
from shared import topics
from shared.events import InteractionEdge, Item, ItemSemantics, ReviewEdge, Source
from shared.graph import fold
from shared.graph.checks import Checks
from shared.graph.fold import ItemFact
from shared.graph.state import ItemNode, UserState
from shared.streams import Delivery, Refused


@dataclass
class _Group:
    """The facts of one item in a batch."""

    facts: list[ItemFact] = field(default_factory=list)
    sources: list[Source | None] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


class ItemsHandler:
    """The handler of the stream `items`. Raises Unavailable as the store and Kafka do."""

    def __init__(
        self, items: Nodes[ItemNode], users: Nodes[UserState], sender: Sender, announcer: Announcer, checks: Checks
    ) -> None:
        self._items = items
        self._users = users
        self._sender = sender
        self._announcer = announcer
        self._checks = checks

    async def __call__(self, deliveries: Sequence[Delivery]) -> Sequence[Refused]:
        groups, refused = self._group(deliveries)
        if not groups:
            return refused
        async with self._items.lock:
            blanks = await self._blanks(groups)
            before = await self._items.load(list(groups))
            after = self._join(groups, before)
            changed = [item for item in after.values() if not _unchanged(before.get(item.item_id), item)]
            deferred = self._announcer.deferred([item.item_id for item in changed], time.monotonic())
            written = await self._items.write(
                changed, before, {item.item_id: {DUE: YES if item.item_id in deferred else NO} for item in changed}
            )
            told = [(written.get(item_id, after[item_id]), group.changes) for item_id, group in groups.items()]
            await self._announcer.tell(told, deferred)
        await self._sender.send_all([(topics.ITEM_EDGES, blank) for blank in blanks])
        return refused

    async def _blanks(self, groups: dict[str, _Group]) -> list[ReviewEdge]:
        """For reviews that were on their way here while their users were forgotten (users.py)."""
        reviews = [f for group in groups.values() for f in group.facts if isinstance(f, ReviewEdge) and not f.erased_at]
        users = await self._users.read(list({review.user_id for review in reviews})) if reviews else {}
        return [
            fold.blank_of(review.user_id, review.item_id, review.review_id, review.ts, user.erased_at, review.source)
            for review in reviews
            if (user := users.get(review.user_id)) is not None and review.ts <= user.erased_at
        ]

    def _group(self, deliveries: Sequence[Delivery]) -> tuple[dict[str, _Group], list[Refused]]:
        groups: dict[str, _Group] = {}
        refused = []
        for delivery in deliveries:
            event = delivery.event
            problem = self._checks.problem(event)
            if problem:
                refused.append(Refused(delivery, "out_of_bounds", problem))
            elif isinstance(event, Item | ItemSemantics | InteractionEdge | ReviewEdge):
                group = groups.setdefault(event.item_id, _Group())
                group.facts.append(event)
                # Positions say which description is in: an embedding may overtake the item it was made of, and
                # edges come from the partitions of many users.
                group.sources.append(delivery.source if isinstance(event, Item) else None)
                group.changes.append(_change_of(event, delivery.source))
        return groups, refused

    def _join(self, groups: dict[str, _Group], before: dict[str, ItemNode]) -> dict[str, ItemNode]:
        with metrics.JOIN_SECONDS.labels("items").time():
            return {
                node: fold.fold_item(before.get(node, ItemNode(node)), group.facts, group.sources)
                for node, group in groups.items()
            }


def _change_of(event: ItemFact, source: Source) -> Change:
    if isinstance(event, Item):
        return "item", source.appended_at
    if isinstance(event, ItemSemantics):
        return "item", event.source.appended_at
    return ("interaction" if isinstance(event, InteractionEdge) else "review"), event.source.appended_at


def _unchanged(before: ItemNode | None, after: ItemNode) -> bool:
    return before is not None and before.positions == after.positions and fold.same_item(before, after)
