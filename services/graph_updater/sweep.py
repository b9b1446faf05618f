"""Users whose vector lacks some of their items: computed again when the items' vectors have come.

A user's write never waits for items: it takes the vectors that are in memory. What was missing is looked up here,
slowly and in small batches, a few times with growing pauses; after that the user's next fact tries again.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
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


@dataclass(frozen=True, slots=True)
class _Dirty:
    missing: int  # items without a vector when the user was written
    tries: int
    due: float  # time.monotonic() of the next try


class Sweep:
    def __init__(self, users: Nodes[UserState], store: Store, derived: Derived, vectors: ItemVectors) -> None:
        self._users = users
        self._store = store
        self._derived = derived
        self._vectors = vectors
        self._dirty: OrderedDict[str, _Dirty] = OrderedDict()

    def note(self, users: Iterable[UserState]) -> None:
        """Remember those whose vectors lack some of their items."""
        due = time.monotonic() + FIRST_PAUSE_SECONDS
        for user in users:
            missing = len(self._derived.missing_items(user))
            held = self._dirty.pop(user.user_id, None)
            if missing:
                self._dirty[user.user_id] = _Dirty(missing, 0, held.due if held else due)
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
        async with self._users.lock:
            ids = list(islice((user_id for user_id, held in self._dirty.items() if held.due <= now), STEP_USERS))
            if not ids:
                return 0
            users = await self._users.load(ids)
            await self._fetch(set().union(*(self._derived.missing_items(user) for user in users.values())))
            missing = {user_id: len(self._derived.missing_items(user)) for user_id, user in users.items()}
            better = [users[user_id] for user_id, count in missing.items() if count < self._dirty[user_id].missing]
            if better:
                await self._users.write(better)
            for user_id in ids:
                self._settle(user_id, missing.get(user_id, 0), now)
        metrics.DIRTY.set(len(self._dirty))
        return len(better)

    async def _fetch(self, item_ids: set[str]) -> None:
        if item_ids:
            for item_id, vector in (await self._store.vectors("items", sorted(item_ids), "semantic")).items():
                self._vectors.put(item_id, vector)

    def _settle(self, user_id: str, missing: int, now: float) -> None:
        tries = self._dirty.pop(user_id).tries + 1
        if not missing:
            return
        if tries < MAX_TRIES:
            self._dirty[user_id] = _Dirty(missing, tries, now + FIRST_PAUSE_SECONDS * 2**tries)
        else:
            metrics.DIRTY_DROPPED.inc()
