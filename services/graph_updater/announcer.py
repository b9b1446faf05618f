"""Tells ranking of changed items on item-states, an item at most once a second, and never loses a change.

An item that was not announced within the last second is announced inside the batch that changed it, so before
the batch's offsets move. One that was is deferred: its row is written with the field `due`, and a flusher
announces it when its second is over and then clears the field. After a crash
- a batch that was written but not announced comes again; its facts change nothing then, but this process has not
  announced that version yet, and does;
- a deferred item is found by its field: `recover` announces all of them at the start, and, where several
  processes share a store, again every minute for what a process that did not come back left behind.
An announcement too many is harmless: it names a version, and ranking has it or fetches it.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.graph_updater import metrics
from services.graph_updater.nodes import Nodes
from services.graph_updater.sender import Sender
from services.graph_updater.store import DUE, YES, Store
from shared import logs, topics
from shared.errors import Unavailable
from shared.events import ItemState
from shared.graph.state import ItemNode
from shared.service import Heartbeat

Change = tuple[str, float]  # kind of the event, its append time
MAX_CHANGES: Final = 64  # of one announcement: enough to measure freshness by
MAX_DEFERRED: Final = 10_000
MAX_REMEMBERED: Final = 200_000
TICK_SECONDS: Final = 0.1
RECOVER_SECONDS: Final = 60.0
RECOVER_ITEMS: Final = 500
log = logs.get(__name__)


@dataclass(slots=True)
class _Deferred:
    version: int
    available: bool
    at: float  # when its second is over, time.monotonic()
    changes: list[Change] = field(default_factory=list)


class Announcer:
    def __init__(self, items: Nodes[ItemNode], store: Store, sender: Sender, every_seconds: float) -> None:
        self._items = items
        self._store = store
        self._sender = sender
        self._every = every_seconds
        self._announced: OrderedDict[str, tuple[float, int]] = OrderedDict()  # when, and which version
        self._waiting: dict[str, _Deferred] = {}

    def deferred(self, item_ids: Sequence[str], now: float) -> set[str]:
        """Those of the items whose second is not over; their rows are to be written as due."""
        if len(self._waiting) >= MAX_DEFERRED:
            return set()
        return {item_id for item_id in item_ids if self._ends(item_id) > now}

    async def tell(self, items: Sequence[tuple[ItemNode, Sequence[Change]]], deferred: set[str]) -> None:
        """Announce these, or keep the deferred ones until their second is over. The caller holds the items' lock.

        Raises Unavailable when Kafka does not acknowledge; what was to be announced now is then told again.
        """
        states = []
        for item, changes in items:
            kept = self._waiting.get(item.item_id)
            if item.item_id in deferred:
                self._defer(item, [*(kept.changes if kept else ()), *changes])
            elif self._version_told(item.item_id) != item.version:
                states.append(_state(item.item_id, item.version, item.available, kept.changes if kept else (), changes))
        await self._announce(states)

    async def recover(self) -> int:
        """Announce every item that is still marked as due in the store; returns how many."""
        found = [item_id for item_id in await self._store.find("items", DUE, YES) if item_id not in self._waiting]
        for start in range(0, len(found), RECOVER_ITEMS):
            async with self._items.lock:
                items = await self._items.load(found[start : start + RECOVER_ITEMS])
                await self._announce([_state(i.item_id, i.version, i.available) for i in items.values()])
                await self._store.clear("items", DUE, {i.item_id: i.version for i in items.values()})
        return len(found)

    async def run(self, heart: Heartbeat) -> None:
        """Announce what was deferred when its time comes; ends when cancelled."""
        recovered = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self.flush(time.monotonic())
                if not self._store.exclusive and time.monotonic() - recovered > RECOVER_SECONDS:
                    recovered = time.monotonic()
                    await self.recover()
                heart.beat()
            except Unavailable as error:
                heart.beat()  # alive, and trying
                log.warning("items cannot be announced yet", error=str(error), items=len(self._waiting))
                await asyncio.sleep(self._every)

    async def flush(self, now: float) -> None:
        """Announce the deferred items whose second is over at `now`; math.inf: all."""
        if not any(kept.at <= now for kept in self._waiting.values()):
            return
        async with self._items.lock:
            ready = {item_id: kept for item_id, kept in self._waiting.items() if kept.at <= now}
            await self._announce(
                [_state(item_id, kept.version, kept.available, kept.changes) for item_id, kept in ready.items()]
            )
            await self._store.clear("items", DUE, {item_id: kept.version for item_id, kept in ready.items()})

    def _version_told(self, item_id: str) -> int | None:
        """The version that is announced, or that the flusher will announce."""
        if item_id in self._waiting:
            return self._waiting[item_id].version
        announced = self._announced.get(item_id)
        return announced[1] if announced else None

    def _ends(self, item_id: str) -> float:
        announced = self._announced.get(item_id)
        return announced[0] + self._every if announced else 0.0

    def _defer(self, item: ItemNode, changes: list[Change]) -> None:
        self._waiting[item.item_id] = _Deferred(
            item.version, item.available, self._ends(item.item_id), changes[:MAX_CHANGES]
        )
        metrics.UNANNOUNCED.set(len(self._waiting))

    async def _announce(self, states: Sequence[ItemState]) -> None:
        if not states:
            return
        await self._sender.send_all([(topics.ITEM_STATES, state) for state in states])
        metrics.ANNOUNCED.inc(len(states))
        self._remember({state.item_id: state.version for state in states})

    def _remember(self, versions: Mapping[str, int]) -> None:
        now = time.monotonic()
        for item_id, version in versions.items():
            self._waiting.pop(item_id, None)
            self._announced[item_id] = (now, version)
            self._announced.move_to_end(item_id)
        while len(self._announced) > MAX_REMEMBERED:
            self._announced.popitem(last=False)
        metrics.UNANNOUNCED.set(len(self._waiting))


def _state(
    item_id: str, version: int, available: bool, earlier: Sequence[Change] = (), changes: Sequence[Change] = ()
) -> ItemState:
    return ItemState(
        item_id=item_id, version=version, available=available, changes=[*earlier, *changes][:MAX_CHANGES]
    )  # fmt: skip
