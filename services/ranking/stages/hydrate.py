"""Hydrate: a user's state from graph_updater, asked for with others in one call; the last known one where it is silent.

A request with `after` waits on its own and never falls back: an answer that does not reflect what was asked for would
be a wrong one.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from services.ranking import backoff, metrics
from services.ranking.batcher import Limits, MicroBatcher, Ticket, settle
from services.ranking.catalogue import Catalogue
from services.ranking.graph import Graph
from services.ranking.job import Hydrated
from services.ranking.requests import Query
from services.ranking.user_cache import UserCache
from shared import logs
from shared.errors import DeadlineExceeded, Overloaded, Unavailable

log = logs.get(__name__)
SHARE_OF_DEADLINE: Final = 0.5  # of what is left; the rest is for ranking from the last known state
SHARE_OF_PATIENCE: Final = 0.5  # for company; the rest is for graph_updater
NOT_REFLECTED: Final = "the events named in after are not reflected yet; allow more time, or ask again later"


class Hydrate:
    """`timeout`: seconds that a state is waited for; `max_waiting`: requests with `after` at once."""

    def __init__(
        self, graph: Graph, catalogue: Catalogue, cache: UserCache, timeout: float, max_waiting: int, limits: Limits
    ) -> None:
        self._graph = graph
        self._catalogue = catalogue
        self._cache = cache
        self._timeout = timeout
        self._max_waiting = max_waiting
        self._waiting = 0
        self._longest_wait = limits.longest_wait
        self._together: MicroBatcher[str, Hydrated | None] = MicroBatcher("hydrate", self._read, limits)

    def start(self) -> None:
        self._together.start()

    async def stop(self) -> None:
        await self._together.stop()

    def admit(self, deadline: float) -> None:
        """Raises DeadlineExceeded or Overloaded where a request would be refused now."""
        self._together.admit(deadline)

    async def state(self, query: Query, deadline: float, alone: bool, ahead: float) -> Hydrated:
        """The user's state as it is now, or the last known one. `alone`: no other request is underway, so none is
        waited for; else company may come until it is the request's turn to be ranked, `ahead` in seconds.

        Raises DeadlineExceeded or Overloaded.
        """
        patience = min(self._timeout, SHARE_OF_DEADLINE * (deadline - time.monotonic()))
        wait = 0.0 if alone else min(max(self._longest_wait, ahead), SHARE_OF_PATIENCE * patience)
        answer = self._together.give(query.user_id, deadline, wait)
        # asyncio.timeout, which cancels and catches, takes three times as long.
        end_of_patience = asyncio.get_running_loop().call_later(patience, settle, answer, None)
        try:
            found = await answer
        finally:
            end_of_patience.cancel()
        space = self._space
        return found or Hydrated(self._cache.find(query.user_id, space), space, fresh=False)

    def hurry(self) -> None:
        """Nobody is ranked: who waits only for their turn need not."""
        self._together.hurry()

    @property
    def _space(self) -> str:
        return self._catalogue.space

    async def _read(self, tickets: Sequence[Ticket[str, Hydrated | None]]) -> None:
        """None where graph_updater does not answer: the last known states are at hand."""
        space = self._space
        try:
            nodes = await self._graph.users(list({ticket.query: None for ticket in tickets}), space, self._timeout)
        except (Unavailable, DeadlineExceeded, Overloaded):
            nodes = []
        for node in nodes:
            self._cache.keep(node, space)
        found = {node.id: Hydrated(node, space) for node in nodes}
        for ticket in tickets:
            ticket.settle(found.get(ticket.query))

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
