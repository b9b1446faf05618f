"""Hydrate: the users' states from graph_updater, one call a micro-batch; the last known ones where it is silent.

A request with `after` waits on its own, before it joins any batch, and never falls back: an answer that does
not reflect what was asked for would be a wrong one.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Final

from services.ranking import backoff, metrics
from services.ranking.catalogue import Catalogue
from services.ranking.graph import Graph, Node
from services.ranking.job import Hydrated, Job
from services.ranking.requests import Query
from services.ranking.user_cache import UserCache
from shared import logs
from shared.errors import DeadlineExceeded, Overloaded, Unavailable

log = logs.get(__name__)
SHARE_OF_DEADLINE: Final = 0.5  # of what is left; the rest is for ranking from the last known state
NOT_REFLECTED: Final = "the events named in after are not reflected yet; allow more time, or ask again later"


class Hydrate:
    """`timeout`: seconds that graph_updater is given; `max_waiting`: requests with `after` at once."""

    def __init__(self, graph: Graph, catalogue: Catalogue, cache: UserCache, timeout: float, max_waiting: int) -> None:
        self._graph = graph
        self._catalogue = catalogue
        self._cache = cache
        self._timeout = timeout
        self._max_waiting = max_waiting
        self._waiting = 0

    async def parts(self, jobs: Sequence[Job]) -> AsyncGenerator[list[Job], None]:
        """The jobs with their `hydrated`: at once, but where graph_updater is slow, who has less time comes first."""
        space = self._space
        ready = [job for job in jobs if job.hydrated is not None]
        waiting = [job for job in jobs if job.hydrated is None]
        asked = asyncio.create_task(self._fetch(dict.fromkeys(job.query.user_id for job in waiting), space))
        patience = self._patience(waiting)
        try:
            while waiting:
                left = min(patience[job] for job in waiting) - time.monotonic()
                await asyncio.wait({asked}, timeout=max(left, 0.0))
                now = time.monotonic()
                some = [job for job in waiting if asked.done() or patience[job] <= now]
                waiting = [job for job in waiting if not asked.done() and patience[job] > now]
                self._fill(some, asked.result() if asked.done() else {}, space)
                if ready or some:
                    yield [*ready, *some]
                ready = []
            if ready:
                yield ready
        finally:
            asked.cancel()

    def _patience(self, jobs: Sequence[Job]) -> dict[Job, float]:
        """Until when each waits for its state, on time.monotonic's clock."""
        now = time.monotonic()
        return {job: now + min(self._timeout, SHARE_OF_DEADLINE * (job.deadline - now)) for job in jobs}

    def _fill(self, jobs: Sequence[Job], states: Mapping[str, Node], space: str) -> None:
        for job in jobs:
            node = states.get(job.query.user_id)
            fresh = node is not None
            job.hydrated = Hydrated(node if fresh else self._cache.find(job.query.user_id, space), space, fresh)

    @property
    def _space(self) -> str:
        return self._catalogue.space

    async def _fetch(self, user_ids: Iterable[str], space: str) -> dict[str, Node]:
        """The states of users; none where graph_updater does not answer: the last known ones are at hand."""
        ids = list(user_ids)
        if not ids:
            return {}
        try:
            nodes = await self._graph.users(ids, space, self._timeout)
        except (Unavailable, DeadlineExceeded, Overloaded):
            return {}
        for node in nodes:
            self._cache.keep(node, space)
        return {node.id: node for node in nodes}

    async def reflecting(self, query: Query, deadline: float) -> Hydrated:
        """A state that reflects `after`. Raises DeadlineExceeded where that does not come in time, Overloaded where
        too many wait.
        """
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
