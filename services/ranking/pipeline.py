"""A ranking, as a list of stages:

    Hydrate → Assign → Ladder → Source → Filter → Score → Boost → Select → Pin → Diversify → Explore → Explain →
    Respond → SideEffect

Hydrate and SideEffect wait for others, so they run in the event loop. The rest is one job of the inference thread for
all whose states have come while it worked on those before them. After Assign the requests of each generation go on by
themselves.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Final

from services.ranking import metrics
from services.ranking.batcher import Limits, MicroBatcher, Ticket
from services.ranking.catalogue import Catalogue
from services.ranking.experiments import CONTROL, NO_EXPERIMENT, Experiment
from services.ranking.generation import Generation
from services.ranking.inference import Inference
from services.ranking.job import NAME_OF_RUNG, POPULAR, Hydrated, Job
from services.ranking.requests import Query
from services.ranking.rules import Rules
from services.ranking.shadow import Shadow
from services.ranking.stages import (
    assign,
    diversify,
    explain,
    explore,
    filter,
    ladder,
    pin,
    respond,
    score,
    select,
    source,
)
from services.ranking.stages.boost import Boosts
from services.ranking.stages.hydrate import Hydrate
from services.ranking.stages.side_effect import Impressions
from shared.errors import Unavailable
from shared.pb.finestream.v1 import ranking_pb2

COST_OF_EXACT: Final = 16  # rankings: four in a batch of 64 hold the others up by no more than a full batch does
HALF_DONE: Final = 0.5  # of what is ahead: of what is worked on in the mean, and a state must be read before its turn
MAX_HYDRATIONS: Final = 3  # a state is of one space; a bundle of another space may come in between


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
        experiment: Callable[[], Experiment] = lambda: NO_EXPERIMENT,
    ) -> None:
        self._hydrate = hydrate
        self._catalogue = catalogue
        self._inference = inference
        self._impressions = impressions
        self._tile_items = tile_items
        self._pool_items = pool_items
        self._new_item_users = new_item_users
        self._rules = rules
        self._experiment = experiment
        self._boosts = Boosts()
        self._underway = 0  # requests
        self._together: MicroBatcher[Job, ranking_pb2.RankResponse | None] = MicroBatcher(
            "rank", self._answer, limits, cost_of, hydrate.hurry
        )
        self._shadow = Shadow(experiment, catalogue, inference, self._rank_by, self._together.rest)

    def start(self) -> None:
        self._hydrate.start()
        self._together.start()
        self._shadow.start()

    async def stop(self) -> None:
        await self._hydrate.stop()
        await self._shadow.stop()
        await self._together.stop()

    def admit(self, deadline: float) -> None:
        """Raises what rank would raise at once for a query of that deadline: DeadlineExceeded or Overloaded."""
        self._hydrate.admit(deadline)
        self._together.admit(deadline)

    async def rank(self, query: Query, deadline: float) -> ranking_pb2.RankResponse:
        """Answer one query; `deadline` is on time.monotonic's clock.

        Raises DeadlineExceeded, Overloaded, or Unavailable where bundles of other spaces follow too fast.
        """
        self._underway += 1
        try:
            for _ in range(MAX_HYDRATIONS):
                job = Job(query, deadline)
                job.hydrated = await self._hydrated(job)
                response = await self._together.submit(job, deadline)
                if response is not None:
                    self._side_effect(job, response)
                    return response
        finally:
            self._underway -= 1
        raise Unavailable("the model is being replaced; try again")

    async def _hydrated(self, job: Job) -> Hydrated:
        if job.query.after:
            stage, state = "wait", self._hydrate.reflecting(job.query, job.deadline)
        else:
            ahead = HALF_DONE * self._together.seconds_ahead(time.monotonic())
            stage, state = "hydrate", self._hydrate.state(job.query, job.deadline, self._underway == 1, ahead)
        began = time.perf_counter()
        hydrated = await state
        job.seconds[stage] = time.perf_counter() - began
        metrics.STAGE[stage].observe(job.seconds[stage])
        return hydrated

    async def _answer(self, tickets: Sequence[Ticket[Job, ranking_pb2.RankResponse | None]]) -> None:
        jobs = [ticket.query for ticket in tickets]
        for ticket in tickets:
            metrics.STAGE["queue"].observe(ticket.waited)
            ticket.query.seconds["queue"] = ticket.waited
        await self._inference.run(self._rank_now, jobs)
        for ticket in tickets:
            ticket.settle(ticket.query.response)
        self._shadow.offer(jobs)

    def _rank_now(self, all_jobs: Sequence[Job]) -> None:
        assigning: dict[str, float] = {}
        with _timed("assign", assigning):
            ranked_by = assign.assign(all_jobs, self._experiment(), self._catalogue)
        metrics.STAGE["assign"].observe(assigning["assign"])
        for generation, jobs in ranked_by.items():
            began = time.perf_counter()
            took = self._rank_by(generation, jobs)
            for variant in {job.variant for job in jobs}:
                metrics.VARIANT_SECONDS.labels(variant or CONTROL).observe(time.perf_counter() - began)
            for stage, seconds in took.items():
                metrics.STAGE[stage].observe(seconds)
            respond.tell_timings(jobs, assigning | took)

    def _rank_by(self, generation: Generation, jobs: list[Job]) -> dict[str, float]:
        """Fill in the responses, all by one generation; returns the seconds of the stages."""
        now, rules = time.time(), self._rules()
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
        return took

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

    def _side_effect(self, job: Job, response: ranking_pb2.RankResponse) -> None:
        _counts(job.rung, job.variant)()
        if self._impressions:
            self._impressions.offer(job, response.model_version)


def cost_of(job: Job) -> int:
    """In rankings: an exact explanation encodes its user once for each thing that it leaves out."""
    return COST_OF_EXACT if job.query.explain and job.query.leave_out else 1


@cache
def _counts(rung: "ranking_pb2.Rung", variant: str) -> Callable[[], None]:
    """What counts an answer: labels() takes longer than counting."""
    return metrics.ANSWERS.labels(NAME_OF_RUNG[rung], variant or CONTROL).inc


@contextmanager
def _timed(stage: str, took: dict[str, float]) -> Iterator[None]:
    """Add a stage's seconds to those it `took`."""
    started = time.perf_counter()
    yield
    took[stage] = took.get(stage, 0.0) + time.perf_counter() - started
