"""Users whose vector lacks some of their items: computed again when the items' vectors have come.

A user's write never waits for items: it takes the vectors that are in memory. What was missing is looked up here,
slowly and in small batches, a few times with growing pauses; after that the user's next fact tries again.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from services.graph_updater import metrics
from services.graph_updater.nodes import Nodes
from services.graph_updater.store import Store
from services.graph_updater.vectors import Derived, ItemVectors
from shared import logs
from shared.errors import Unavailable
from shared.graph.state import UserState
from shared.service import Heartbeat

MAX_DIRTY: Final = 100_000
MAX_TRIES: Final = 8
FIRST_PAUSE_SECONDS: Final = 2.0  # doubles with every try
TICK_SECONDS: Final = 0.5
STEP_USERS: Final = 50  # the users' lock is held for so many
log = logs.get(__name__)


class Sweep:
    def __init__(self, users: Nodes[UserState], store: Store, derived: Derived, vectors: ItemVectors) -> None:
        self._users = users
        self._store = store
        self._derived = derived
        self._vectors = vectors
        self._dirty: OrderedDict[str, tuple[int, float]] = OrderedDict()  # tries so far, when the next is due

    def note(self, users: Iterable[UserState]) -> None:
        """Remember those whose vectors lack some of their items."""
        due = time.monotonic() + FIRST_PAUSE_SECONDS
        for user in users:
            if self._derived.missing_items(user):
                self._dirty.setdefault(user.user_id, (0, due))
            else:
                self._dirty.pop(user.user_id, None)
        while len(self._dirty) > MAX_DIRTY:
            self._dirty.popitem(last=False)
            metrics.DIRTY_DROPPED.inc()
        metrics.DIRTY.set(len(self._dirty))

    async def run(self, heart: Heartbeat) -> None:
        """Sweep for ever; ends when cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self.step(time.monotonic())
            except Unavailable as error:
                log.warning("vectors cannot be read yet", error=str(error))
            heart.beat()

    async def step(self, now: float) -> int:
        """Try the first users that are due; returns how many have new vectors."""
        ids = [user_id for user_id, (_, due) in self._dirty.items() if due <= now][:STEP_USERS]
        if not ids:
            return 0
        async with self._users.lock:
            users = await self._users.load(ids)
            missing = {user_id: self._derived.missing_items(user) for user_id, user in users.items()}
            found = await self._fetch(set().union(*missing.values()))
            better = [users[user_id] for user_id, items in missing.items() if items & found]
            if better:
                await self._users.write(better)
        for user_id in ids:
            self._settle(user_id, missing.get(user_id, set()) - found, now)
        metrics.DIRTY.set(len(self._dirty))
        return len(better)

    async def _fetch(self, item_ids: set[str]) -> set[str]:
        found = await self._store.vectors("items", sorted(item_ids), "semantic")
        for item_id, vector in found.items():
            self._vectors.put(item_id, vector)
        return set(found)

    def _settle(self, user_id: str, missing: set[str], now: float) -> None:
        tries = self._dirty.pop(user_id, (0, 0.0))[0] + 1
        if not missing:
            return
        if tries < MAX_TRIES:
            self._dirty[user_id] = (tries, now + FIRST_PAUSE_SECONDS * 2**tries)
        else:
            metrics.DIRTY_DROPPED.inc()
