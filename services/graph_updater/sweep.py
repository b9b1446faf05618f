"""Users' semantic vectors, made again once they have met something: soon, and not with every fact.

A user's write never waits for vectors. A user who was written is dirty; a moment later their vector is made of the
items that they have met by then, whose vectors are read where they are not in memory. What is still missing is
tried a few times with growing pauses; after that the user's next fact tries again. Who is dirty is kept in memory
alone: after a crash the vector of a user who met something in the last seconds waits for their next fact.
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
FIRST_PAUSE_SECONDS: Final = 1.0  # doubles with every try
TICK_SECONDS: Final = 0.5
STEP_USERS: Final = 100  # the users' lock is held for so many
TICK_STEPS: Final = 5  # so that the streams keep the processor where facts come faster than this
log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class _Dirty:
    tries: int
    due: float  # time.monotonic() of the next try


class Sweep:
    def __init__(self, users: Nodes[UserState], store: Store, derived: Derived, vectors: ItemVectors) -> None:
        self._users = users
        self._store = store
        self._derived = derived
        self._vectors = vectors
        self._dirty: OrderedDict[str, _Dirty] = OrderedDict()  # the next to try first, but for retries

    def note(self, user_ids: Iterable[str]) -> None:
        """Remember those whose vectors may lack some of their items."""
        due = time.monotonic() + FIRST_PAUSE_SECONDS
        for user_id in user_ids:
            held = self._dirty.pop(user_id, None)
            self._dirty[user_id] = _Dirty(0, min(held.due, due) if held else due)
        while len(self._dirty) > MAX_DIRTY:
            self._dirty.popitem(last=False)
            metrics.DIRTY_DROPPED.inc()
        metrics.DIRTY.set(len(self._dirty))

    async def run(self, heart: Heartbeat) -> None:
        """Sweep for ever; ends when cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                for _ in range(TICK_STEPS):
                    if not await self.step(time.monotonic()):
                        break
            except Unavailable as error:
                log.warning("vectors cannot be read yet", error=str(error))
            heart.beat()

    async def step(self, now: float) -> int:
        """Try the first users that are due; returns how many were tried."""
        async with self._users.lock:
            ids = list(islice((user_id for user_id, held in self._dirty.items() if held.due <= now), STEP_USERS))
            if not ids:
                return 0
            users = await self._users.read(ids)  # never a cache that is behind: an erasure must not come undone
            await self._fetch(set().union(*(self._derived.missing_items(user) for user in users.values())))
            made = {user_id: self._derived.user_semantic(user) for user_id, user in users.items()}
            await self._store.revise(
                "users", "semantic", {user_id: (users[user_id].version, v) for user_id, v in made.items() if len(v)}
            )
            for user_id in ids:
                missing = user_id in users and bool(self._derived.missing_items(users[user_id]))
                self._settle(user_id, missing=missing, now=now)
        metrics.DIRTY.set(len(self._dirty))
        return len(ids)

    async def _fetch(self, item_ids: set[str]) -> None:
        if item_ids:
            for item_id, vector in (await self._store.vectors("items", sorted(item_ids), "semantic")).items():
                self._vectors.put(item_id, vector)

    def _settle(self, user_id: str, *, missing: bool, now: float) -> None:
        tries = self._dirty.pop(user_id).tries + 1
        if not missing:
            return
        if tries < MAX_TRIES:
            self._dirty[user_id] = _Dirty(tries, now + FIRST_PAUSE_SECONDS * 2**tries)
        else:
            metrics.DIRTY_DROPPED.inc()
