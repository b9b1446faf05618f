"""Hydrate: the user's state from graph_updater, one call a micro-batch; the last known one where it is silent.

A request with `after` waits on its own, before it joins any batch, and never falls back: an answer that does
not reflect what was asked for would be a wrong one.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from services.ranking import backoff, metrics
from services.ranking.batcher import Limits, MicroBatcher
from services.ranking.catalogue import Catalogue
from services.ranking.graph import Graph
from services.ranking.job import Hydrated
from services.ranking.requests import Query
from services.ranking.user_cache import UserCache
from shared import logs
from shared.errors import DeadlineExceeded, Overloaded, Unavailable

log = logs.get(__name__)
SHARE_OF_DEADLINE: Final = 0.5  # of what is left; the rest is for ranking from the last known state
NOT_REFLECTED: Final = "the events named in after are not reflected yet; allow more time, or ask again later"


class Hydrate:
    def __init__(self, graph: Graph, catalogue: Catalogue, cache: UserCache, limits: Limits, timeout: float) -> None:
        self._graph = graph
        self._catalogue = catalogue
        self._cache = cache
        self._timeout = timeout
        self._max_waiting = limits.queue
        self._waiting = 0
        self._together: MicroBatcher[str, Hydrated] = MicroBatcher("hydrate", self._fetch, limits)

    def start(self) -> None:
        self._together.start()

    async def stop(self) -> None:
        await self._together.stop()

    async def hydrate(self, query: Query, deadline: float) -> Hydrated:
        """Raises DeadlineExceeded where `after` does not come in time, Overloaded where too many wait."""
        if query.after:
            return await self._reflecting(query, deadline)
        budget = min(self._timeout, SHARE_OF_DEADLINE * (deadline - time.monotonic()))
        try:
            return await asyncio.wait_for(self._together.submit(query.user_id, deadline), max(budget, 0.0))
        except (Unavailable, DeadlineExceeded, TimeoutError):
            if time.monotonic() >= deadline:
                raise DeadlineExceeded(
                    "the deadline passed before the user's state was read; allow more time"
                ) from None
            space = self._space
            return Hydrated(self._cache.find(query.user_id, space), space, fresh=False)

    @property
    def _space(self) -> str:
        return self._catalogue.current.release.space

    async def _fetch(self, user_ids: Sequence[str]) -> list[Hydrated]:
        space = self._space
        distinct = list(dict.fromkeys(user_ids))
        try:
            nodes = await self._graph.users(distinct, space, self._timeout)
        except Overloaded as error:  # its overload is no reason to refuse: the last known states are at hand
            raise Unavailable(str(error)) from error
        for node in nodes:
            self._cache.keep(node, space)
        found = {node.id: Hydrated(node, space) for node in nodes}
        return [found[user_id] for user_id in user_ids]

    async def _reflecting(self, query: Query, deadline: float) -> Hydrated:
        if self._waiting >= self._max_waiting:
            metrics.REFUSED.labels("queue_full").inc()
            raise Overloaded("too many requests wait for events; try again with back-off")
        self._waiting += 1
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                for after in query.after_items:
                    await self._catalogue.reflected(after.key, after.partition, after.offset)
                return await self._user_reflecting(query, deadline)
        except TimeoutError:
            metrics.REFUSED.labels("not_reflected").inc()
            raise DeadlineExceeded(NOT_REFLECTED) from None
        finally:
            self._waiting -= 1

    async def _user_reflecting(self, query: Query, deadline: float) -> Hydrated:
        for wait in backoff.delays(0.02, 1.0):
            space, left = self._space, deadline - time.monotonic()
            try:
                (node,) = await self._graph.users([query.user_id], space, max(left, 0.001), query.after_user)
            except DeadlineExceeded:
                raise TimeoutError from None
            except (Unavailable, Overloaded) as error:
                log.info("waiting for graph_updater", error=str(error))
                await asyncio.sleep(wait)
            else:
                self._cache.keep(node, space)
                return Hydrated(node, space)
        raise AssertionError("delays never end")
