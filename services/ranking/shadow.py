"""Shadows: bundles that are never shown. They rank some of the requests again, and the answers are compared.

Only what has been answered, and only while no request waits: one request at a time, so that whoever comes meanwhile
waits for the rest of one ranking at most. What there is no time for is dropped.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from services.ranking import metrics
from services.ranking.catalogue import Catalogue
from services.ranking.experiments import Experiment, Variant
from services.ranking.generation import Generation
from services.ranking.inference import Inference
from services.ranking.job import EXPLORED, POPULAR, Job
from services.ranking.requests import Query
from shared import logs
from shared.pb.finestream.v1 import ranking_pb2

log = logs.get(__name__)
WAITING: Final = 64  # rankings that wait for a quiet moment


class Shadow:
    """`rank` fills in the responses of jobs, in the inference thread; `rest` returns when no request waits."""

    def __init__(
        self,
        experiment: Callable[[], Experiment],
        catalogue: Catalogue,
        inference: Inference,
        rank: Callable[[Generation, list[Job]], Any],
        rest: Callable[[], Awaitable[None]],
    ) -> None:
        self._experiment = experiment
        self._catalogue = catalogue
        self._inference = inference
        self._rank = rank
        self._rest = rest
        self._waiting: asyncio.Queue[tuple[Variant, Job]] = asyncio.Queue(WAITING)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def offer(self, jobs: Sequence[Job]) -> None:
        """Note those of the answered jobs whose turn it is; returns at once."""
        for variant in self._experiment().shadows:
            for job in jobs:
                if job.response and job.rung != POPULAR and _chance(job.request_id) < variant.share:
                    self._note(variant, job)

    def _note(self, variant: Variant, job: Job) -> None:
        if self._waiting.full():
            metrics.SHADOW_SKIPPED.labels(variant.name).inc()
        else:
            self._waiting.put_nowait((variant, job))

    async def _work(self) -> None:
        while True:
            variant, job = await self._waiting.get()
            await self._rest()
            try:
                await self._inference.run(self._compare, variant, job)
            except Exception:
                metrics.SHADOW_FAILURES.labels(variant.name).inc()
                log.exception("a shadow ranking failed", variant=variant.name)

    def _compare(self, variant: Variant, job: Job) -> None:
        generation = self._catalogue.of(variant.bundle)
        if generation is None or job.hydrated is None or generation.release.space not in ("", job.hydrated.space):
            metrics.SHADOW_SKIPPED.labels(variant.name).inc()
            return
        again = Job(_without_chance(job), job.deadline, hydrated=job.hydrated)
        began = time.perf_counter()
        self._rank(generation, [again])
        metrics.SHADOW_SECONDS.labels(variant.name).observe(time.perf_counter() - began)
        if job.response and again.response and (share := overlap(job.response, again.response)) is not None:
            metrics.SHADOW_OVERLAP.labels(variant.name).observe(share)


def overlap(shown: ranking_pb2.RankResponse, other: ranking_pb2.RankResponse) -> float | None:
    """Which share of what was shown for its score the other has, too; None where nothing was."""
    items = {item.item_id for item in shown.items if item.placement != EXPLORED}
    return len(items & {item.item_id for item in other.items}) / len(items) if items else None


def _without_chance(job: Job) -> Query:
    return replace(job.query, arrangement=replace(job.query.arrangement, exploration=0.0), explain=False, timings=False)


def _chance(request_id: str) -> float:
    """From 0 to 1, exclusive; request ids are random."""
    return int(request_id[:8], 16) / 2**32
