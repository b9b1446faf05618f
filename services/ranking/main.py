"""ranking: `python -m services.ranking.main`. Composes the parts; the stages of a request are in pipeline.py."""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from services.ranking import backoff, experiments, metrics, rules
from services.ranking.batcher import Limits
from services.ranking.catalogue import Catalogue
from services.ranking.feed import Feed
from services.ranking.generation import NO_RELEASE
from services.ranking.graph import Graph
from services.ranking.inference import Inference, device_of
from services.ranking.memory import Memory
from services.ranking.pipeline import Pipeline
from services.ranking.rehearsal import compile_loops, rehearse
from services.ranking.requests import Arrangement
from services.ranking.servicer import Ranking
from services.ranking.settings import RankingSettings
from services.ranking.similar import Similar
from services.ranking.stages.hydrate import Hydrate
from services.ranking.stages.side_effect import Impressions
from services.ranking.swapper import Swapper
from services.ranking.user_cache import UserCache
from shared import kafka, logs, rpc
from shared.door.calls import open_door
from shared.errors import DeadlineExceeded, Overloaded, Unavailable
from shared.hardware import cores
from shared.pb.finestream.v1 import ranking_pb2_grpc
from shared.processes import run_together
from shared.service import Heartbeat, Runtime, hand_over_soon, run
from shared.settings import read
from shared.watched_file import WatchedFile

READS_AT_ONCE = 2  # calls of graph_updater: the next need not wait for one that is slow
PULSE_SECONDS = 1.0
GRACE_SECONDS = 5.0
log = logs.get(__name__)


class Service:
    """The parts of one ranking process, wired."""

    def __init__(self, settings: RankingSettings) -> None:
        s = self.settings = settings
        self.inference = Inference(device_of(s.device), s.torch_threads or cores())
        self.channel = rpc.channel(s.graph.address, s.grpc)
        graph = Graph(self.channel)
        memory = Memory(s.memory_bytes, self.inference.device)
        self.catalogue = Catalogue(
            graph, self.inference, rehearse, fetch_items=s.fetch_items, encode_items=s.encode_items,
            afford=memory.afford_rows,
        )  # fmt: skip
        cache = UserCache(s.user_cache_bytes, s.user_cache_seconds)
        self.feed = Feed(s.kafka, self.catalogue.tell, cache.forget)
        self.experiments = WatchedFile(
            s.experiments, experiments.read, experiments.NO_EXPERIMENT, metrics.EXPERIMENTS_FAILURES.inc
        )
        self.swapper = Swapper(
            s.bundles.url, s.bundle_cache, self.catalogue, self.inference, memory, space=s.kafka.space,
            retry_seconds=s.bundle_retry_seconds, experiment=lambda: self.experiments.current,
        )  # fmt: skip
        self.rules = WatchedFile(s.rules, rules.read, rules.NO_RULES, metrics.RULES_FAILURES.inc)
        self.producer = kafka.Producer(s.kafka, linger_ms=20)
        self.impressions = Impressions(self.producer, s.impressions_buffer) if s.impressions else None
        reads = Limits(s.batch_size, s.batch_wait_seconds, s.queue_age_seconds, s.queue_limit, READS_AT_ONCE)
        hydrate = Hydrate(graph, self.catalogue, cache, s.hydrate_timeout_seconds, s.queue_limit, reads)
        # Those of a read come together, and more come while an inference works: they need not wait for company again.
        batches = replace(reads, longest_wait=0.0, workers=1)
        self.pipeline = Pipeline(
            hydrate, self.catalogue, self.inference, self.impressions, batches,
            tile_items=s.tile_items, pool_items=s.pool_items, new_item_users=s.new_item_users,
            rules=lambda: self.rules.current, experiment=lambda: self.experiments.current,
        )  # fmt: skip
        self.similar = Similar(self.catalogue, self.inference, batches, s.tile_items)

    async def start(self, heart: Callable[[str], Heartbeat]) -> None:
        """Return when a request can be answered well: the catalogue is read and encoded, the model warm."""
        if self.inference.device == "cpu":
            await self.inference.run(compile_loops)
        await kafka.ensure_topics(self.settings.kafka)
        await self.producer.start()
        await self.feed.start(heart("feed"))
        await self._first_generation()
        await self.swapper.look_beside()
        self.pipeline.start()
        self.similar.start()
        if self.impressions:
            self.impressions.start()
        facts = self.catalogue.current.facts
        metrics.WATERMARK_AGE.set_function(lambda: _age(self.catalogue.current.facts.last_seen))
        log.info("warm", items=len(facts), model=self.catalogue.current.release.version, device=self.inference.device)

    async def _first_generation(self) -> None:
        for wait in backoff.delays():
            if await self.swapper.look():
                return
            try:
                await self.catalogue.build(NO_RELEASE)
            except (Unavailable, DeadlineExceeded, Overloaded) as error:
                log.warning("waiting for graph_updater", error=str(error))
                await asyncio.sleep(wait)
            else:
                return

    async def work(self, heart: Callable[[str], Heartbeat]) -> None:
        """Follow what changes, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.feed.run(heart("feed")))
            group.create_task(self.catalogue.run(heart("catalogue")))
            group.create_task(self.swapper.run(self.settings.bundle_poll_seconds, heart("bundles")))
            group.create_task(self.rules.run(self.settings.rules_poll_seconds, heart("rules").beat))
            beat = heart("experiments").beat
            group.create_task(self.experiments.run(self.settings.experiments_poll_seconds, beat))
            group.create_task(self._pulse(heart("inference")))

    async def _pulse(self, heart: Heartbeat) -> None:
        while True:
            await self.inference.run(lambda: None)
            heart.beat()
            await asyncio.sleep(PULSE_SECONDS)

    async def stop(self) -> None:
        await self.feed.stop()
        await self.pipeline.stop()
        await self.similar.stop()
        if self.impressions:
            await self.impressions.stop()
        await self.producer.stop()
        await self.channel.close(None)
        self.inference.close()


async def compose(runtime: Runtime[RankingSettings]) -> None:
    settings, health = runtime.settings, runtime.health
    service = Service(settings)

    servicer = Ranking(
        service.pipeline,
        service.similar,
        health,
        k_limit=settings.k_limit,
        deadline_seconds=settings.deadline_seconds,
        max_bytes=settings.grpc.max_message_bytes,
        arrangement=Arrangement(
            settings.diversity,
            settings.diversity_method,
            exploration=settings.exploration,
            exploration_method=settings.exploration_method,
        ),
    )

    def register(server: Any) -> None:
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(servicer, server)

    def heart(name: str) -> Heartbeat:
        return health.watch(name, settings.progress_timeout_seconds)

    async def serve() -> None:
        await service.start(heart)
        health.ready()
        await service.work(heart)

    full = metrics.REFUSED.labels("full").inc
    door = await open_door(settings, "ranking", register, health, settings.places, full, servicer.admit)
    work, lost = asyncio.create_task(serve()), asyncio.create_task(door.lost())
    stopping = asyncio.create_task(runtime.stopping.wait())
    await asyncio.wait({work, lost, stopping}, return_when=asyncio.FIRST_COMPLETED)
    health.not_ready("stopping")
    lost.cancel()
    await door.stop(GRACE_SECONDS)
    stopping.cancel()
    work.cancel()
    results = await asyncio.gather(work, lost, return_exceptions=True)
    await service.stop()
    for result in results:
        if isinstance(result, Exception):
            raise result


def _age(timestamp: float) -> float:
    return max(0.0, time.time() - timestamp) if timestamp else 0.0


def main() -> None:
    settings = read(RankingSettings)
    if settings.processes > 1:
        logs.configure("ranking", settings.log_level)
        sys.exit(run_together([sys.executable, "-m", "services.ranking.main"], _variables(settings)))
    hand_over_soon()  # inference to the event loop
    run("ranking", RankingSettings, compose)


def _variables(settings: RankingSettings) -> list[dict[str, str]]:
    """Of each process: the port shared, and a metrics port of its own."""
    first = settings.metrics_port
    alike = {"FINESTREAM_RANKING_PROCESSES": "1", "FINESTREAM_RANKING_SHARED_PORT": "true"}
    return [
        {**alike, "FINESTREAM_RANKING_METRICS_PORT": str(first and first + number)}
        for number in range(settings.processes)
    ]


if __name__ == "__main__":
    main()
