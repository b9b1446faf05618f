"""ranking: `python -m services.ranking.main`. Composes the parts; the stages of a request are in pipeline.py."""

import asyncio
import sys
import time
from collections.abc import Callable

import grpc

from services.ranking import backoff, metrics, rules
from services.ranking.batcher import Limits
from services.ranking.catalogue import Catalogue
from services.ranking.feed import Feed
from services.ranking.generation import NO_RELEASE
from services.ranking.graph import Graph
from services.ranking.inference import Inference, device_of
from services.ranking.pipeline import Pipeline
from services.ranking.rehearsal import rehearse
from services.ranking.requests import Arrangement
from services.ranking.servicer import Ranking
from services.ranking.settings import RankingSettings
from services.ranking.similar import Similar
from services.ranking.stages.hydrate import Hydrate
from services.ranking.stages.side_effect import Impressions
from services.ranking.swapper import Swapper
from services.ranking.user_cache import UserCache
from shared import kafka, logs, rpc
from shared.errors import DeadlineExceeded, Overloaded, Unavailable
from shared.hardware import cores
from shared.pb.finestream.v1 import ranking_pb2_grpc
from shared.processes import run_together
from shared.service import Heartbeat, Runtime, run
from shared.settings import read

NAME = "finestream.v1.RankingService"
BATCHES_AT_ONCE = 2  # one is ranked, the states of the other are on their way
PULSE_SECONDS = 1.0
GRACE_SECONDS = 5.0
# How long inference may keep the interpreter from the event loop; Python's own 5 ms are all that a refusal may take.
SWITCH_SECONDS = 0.0005
log = logs.get(__name__)


class Service:
    """The parts of one ranking process, wired."""

    def __init__(self, settings: RankingSettings) -> None:
        s = self.settings = settings
        self.inference = Inference(device_of(s.device), s.torch_threads or cores())
        self.channel = rpc.channel(s.graph.address, s.grpc)
        graph = Graph(self.channel)
        self.catalogue = Catalogue(
            graph, self.inference, rehearse, fetch_items=s.fetch_items, encode_items=s.encode_items
        )
        cache = UserCache(s.user_cache_bytes, s.user_cache_seconds)
        self.feed = Feed(s.kafka, self.catalogue.tell, cache.forget)
        self.swapper = Swapper(
            s.bundles.url, s.bundle_cache, self.catalogue, self.inference, space=s.kafka.space,
            retry_seconds=s.bundle_retry_seconds,
        )  # fmt: skip
        self.rules = rules.watched(s.rules) if s.rules else None
        self.producer = kafka.Producer(s.kafka, linger_ms=20)
        self.impressions = Impressions(self.producer, s.impressions_buffer) if s.impressions else None
        hydrate = Hydrate(graph, self.catalogue, cache, s.hydrate_timeout_seconds, s.queue_limit)
        batches = Limits(s.batch_size, s.batch_wait_seconds, s.queue_age_seconds, s.queue_limit, BATCHES_AT_ONCE)
        self.pipeline = Pipeline(
            hydrate, self.catalogue, self.inference, self.impressions, batches,
            tile_items=s.tile_items, pool_items=s.pool_items, new_item_users=s.new_item_users,
            rules=lambda: self.rules.current if self.rules else rules.NO_RULES,
        )  # fmt: skip
        self.similar = Similar(self.catalogue, self.inference, batches, s.tile_items)

    async def start(self, heart: Callable[[str], Heartbeat]) -> None:
        """Return when a request can be answered well: the catalogue is read and encoded, the model warm."""
        await kafka.ensure_topics(self.settings.kafka)
        await self.producer.start()
        await self.feed.start(heart("feed"))
        await self._first_generation()
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
            if self.rules:
                group.create_task(self.rules.run(self.settings.rules_poll_seconds, heart("rules").beat))
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

    def register(server: grpc.aio.Server) -> None:
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(servicer, server)

    def heart(name: str) -> Heartbeat:
        return health.watch(name, settings.progress_timeout_seconds)

    async def serve() -> None:
        await service.start(heart)
        health.ready()
        await service.work(heart)

    server = await rpc.serve(settings, "ranking", register, [NAME], health, servicer.admit)
    work = asyncio.create_task(serve())
    stopping = asyncio.create_task(runtime.stopping.wait())
    await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    health.not_ready("stopping")
    await server.stop(GRACE_SECONDS)
    stopping.cancel()
    work.cancel()
    results = await asyncio.gather(work, return_exceptions=True)
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
    sys.setswitchinterval(SWITCH_SECONDS)
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
