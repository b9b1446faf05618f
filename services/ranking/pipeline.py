"""A ranking, as a list of stages:

    Hydrate → Ladder → Source → Filter → Score → Boost → Select → Pin → Diversify → Explore → Explain →
    Respond → SideEffect

A micro-batch passes Hydrate with one call of graph_updater, while the one before it is ranked. Hydrate and SideEffect
wait for others, so they run in the event loop; the rest is one job of the inference thread.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Final

from services.ranking import metrics
from services.ranking.batcher import Limits, MicroBatcher, Ticket
from services.ranking.catalogue import Catalogue
from services.ranking.generation import Generation
from services.ranking.inference import Inference
from services.ranking.job import NAME_OF_RUNG, POPULAR, Job
from services.ranking.requests import Query
from services.ranking.rules import Rules
from services.ranking.stages import diversify, explain, explore, filter, ladder, pin, respond, score, select, source
from services.ranking.stages.boost import Boosts
from services.ranking.stages.hydrate import Hydrate
from services.ranking.stages.side_effect import Impressions
from shared.errors import Unavailable
from shared.pb.finestream.v1 import ranking_pb2

MAX_HYDRATIONS: Final = 3  # a state is of one space; a bundle of another space may come in between

_ANSWERS: Final = {rung: metrics.ANSWERS.labels(name) for rung, name in NAME_OF_RUNG.items()}


class Pipeline:
    def __init__(
        self,
        hydrate: Hydrate,
        catalogue: Catalogue,
        inference: Inference,
        impressions: Impressions | None,
        limits: Limits,
        *,
        tile_items: int,
        pool_items: int,
        new_item_users: int,
        rules: Callable[[], Rules],
    ) -> None:
        self._hydrate = hydrate
        self._catalogue = catalogue
        self._inference = inference
        self._impressions = impressions
        self._tile_items = tile_items
        self._pool_items = pool_items
        self._new_item_users = new_item_users
        self._rules = rules
        self._boosts = Boosts()
        self._together: MicroBatcher[Job, ranking_pb2.RankResponse | None] = MicroBatcher("rank", self._answer, limits)

    def start(self) -> None:
        self._together.start()

    async def stop(self) -> None:
        await self._together.stop()

    def admit(self, deadline: float) -> None:
        """Raises what rank would raise at once for a query of that deadline: DeadlineExceeded or Overloaded."""
        self._together.admit(deadline)

    async def rank(self, query: Query, deadline: float) -> ranking_pb2.RankResponse:
        """Answer one query; `deadline` is on time.monotonic's clock.

        Raises DeadlineExceeded, Overloaded, or Unavailable where bundles of other spaces follow too fast.
        """
        for _ in range(MAX_HYDRATIONS):
            job = Job(query, deadline)
            if query.after:
                with _timed("wait", job.seconds):
                    job.hydrated = await self._hydrate.reflecting(query, deadline)
            response = await self._together.submit(job, deadline)
            if response is not None:
                self._side_effect(query, response)
                return response
        raise Unavailable("the model is being replaced; try again")

    async def _answer(self, tickets: Sequence[Ticket[Job, ranking_pb2.RankResponse | None]]) -> None:
        ticket_of = {ticket.query: ticket for ticket in tickets}
        started = time.perf_counter()
        async with aclosing(self._hydrate.parts(list(ticket_of))) as parts:
            async for jobs in parts:
                hydrated = time.perf_counter() - started
                metrics.STAGE["hydrate"].observe(hydrated)
                for job in jobs:
                    job.seconds |= {"queue": ticket_of[job].waited, "hydrate": hydrated}
                await self._inference.run(self._rank_now, jobs)
                for job in jobs:
                    ticket_of[job].settle(job.response)

    def _rank_now(self, all_jobs: Sequence[Job]) -> None:
        generation, now, rules = self._catalogue.current, time.time(), self._rules()
        jobs = [job for job in all_jobs if job.hydrated and job.hydrated.space == generation.release.space]
        took: dict[str, float] = {}
        with _timed("ladder", took):
            ladder.place(jobs, generation, now)
        for job in jobs:
            job.wanted = diversify.pool_of(job.query, self._pool_items, rules)
        with _timed("source", took):
            source.find(jobs, generation.facts)
        with _timed("filter", took):
            filter.narrow(jobs, generation.facts)
        self._score_and_select(jobs, generation, now, rules, took)
        pin.claim(jobs, generation.facts, rules)
        with _timed("diversify", took):
            diversify.diversify(jobs, generation, self._pool_items, rules)
        with _timed("explore", took):
            explore.explore(jobs, generation.facts, self._new_item_users)
        pin.place(jobs)
        with _timed("explain", took):
            explain.explain(jobs, generation, now)
        with _timed("respond", took):
            respond.respond(jobs, generation)
        respond.tell_timings(jobs, took)

    def _score_and_select(
        self, jobs: Sequence[Job], generation: Generation, now: float, rules: Rules, took: dict[str, float]
    ) -> None:
        facts = generation.facts
        popular = [job for job in jobs if job.rung == POPULAR]
        personal = [job for job in jobs if job.rung != POPULAR]
        if personal and generation.release.model and generation.table:
            with _timed("score", took):
                users = score.encode(personal, generation.release.model, generation.table, now)
            table, codes = generation.table, generation.codes
            self._select(
                personal,
                generation,
                lambda which: self._boosts.on(score.by_model(users[which], table, codes), facts, rules),
                took,
            )
        if popular:
            self._select(
                popular,
                generation,
                lambda which: self._boosts.on(score.ByPopularity(facts, len(which)), facts, rules, offsets=False),
                took,
            )

    def _select(
        self, jobs: Sequence[Job], generation: Generation, scores: "select.ScoresOf", took: dict[str, float]
    ) -> None:
        with _timed("select", took):
            select.fill(jobs, scores, generation.facts.available, self._tile_items)

    def _side_effect(self, query: Query, response: ranking_pb2.RankResponse) -> None:
        _ANSWERS[response.rung].inc()
        if self._impressions:
            self._impressions.offer(query.user_id, response)


@contextmanager
def _timed(stage: str, took: dict[str, float]) -> Iterator[None]:
    """Observe a stage's seconds, and add them to those it `took`."""
    started = time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    metrics.STAGE[stage].observe(seconds)
    took[stage] = took.get(stage, 0.0) + seconds
