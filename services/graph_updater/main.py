"""graph_updater: owns users and items. Two streams join facts into their states; GraphService reads them."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.graph_updater import nodes
from services.graph_updater.announcer import Announcer
from services.graph_updater.changes import Changes
from services.graph_updater.counting import count_for_ever
from services.graph_updater.graph_service import SERVICE_NAME, GraphService
from services.graph_updater.items import ItemsHandler
from services.graph_updater.nodes import Nodes
from services.graph_updater.sender import Sender
from services.graph_updater.settings import GraphUpdaterSettings
from services.graph_updater.store import Store
from services.graph_updater.store_qdrant import QdrantStore, connect
from services.graph_updater.sweep import Sweep
from services.graph_updater.users import UsersHandler
from services.graph_updater.vectors import Derived, ItemVectors
from shared import kafka, logs, rpc, topics
from shared.errors import Unavailable
from shared.graph.checks import Checks
from shared.graph.state import ItemNode, UserState
from shared.pb.finestream.v1 import graph_pb2_grpc
from shared.service import Health, Runtime, WrongSetting, run, space_of
from shared.space import Space
from shared.streams import Handler, Stream

if TYPE_CHECKING:
    from services.graph_updater.store_edge import EdgeStore

MEGABYTE: Final = 1024 * 1024
USER_TOPICS: Final = (topics.INTERACTIONS, topics.OPINIONS, topics.ERASURES)
ITEM_TOPICS: Final = (topics.ITEMS, topics.ITEM_SEMANTICS, topics.ITEM_EDGES)
log = logs.get(__name__)


@dataclass(frozen=True)
class Graph:
    """The parts that the streams and the port share."""

    store: Store
    users: Nodes[UserState]
    items: Nodes[ItemNode]
    changes: Changes
    sweep: Sweep
    announcer: Announcer
    on_users: UsersHandler
    on_items: ItemsHandler

    @staticmethod
    def of(
        settings: GraphUpdaterSettings, definition: Space, store: Store, producer: Sender, first_version: int = 1
    ) -> "Graph":
        """`first_version`: no state is written with a lower one."""
        cached = ItemVectors(definition, settings.cached_item_vectors)
        derived = Derived(definition, cached, settings.half_life_days)
        cache_bytes = settings.cache_megabytes * MEGABYTE
        users = nodes.users(store, derived, cache_bytes, first_version)
        items = nodes.items(store, derived, cached, cache_bytes, first_version)
        checks, changes = Checks(definition), Changes()
        sweep = Sweep(users, store, derived, cached)
        announcer = Announcer(items, store, producer, settings.announce_seconds)
        return Graph(
            store, users, items, changes, sweep, announcer,
            UsersHandler(users, items, store, producer, checks, changes, sweep),
            ItemsHandler(items, users, producer, announcer, checks),
        )  # fmt: skip


async def compose(runtime: Runtime[GraphUpdaterSettings]) -> None:
    settings = runtime.settings
    definition = space_of(settings.space)
    async with opened(settings, definition) as store:
        await kafka.ensure_topics(settings.kafka)
        producer = kafka.Producer(settings.kafka)
        await producer.start()
        try:
            graph = Graph.of(settings, definition, store, producer)
            recovered = await graph.announcer.recover()
            log.info("items announced that were left over", items=recovered)
            await _work(runtime, graph, producer)
        finally:
            await producer.stop()


@asynccontextmanager
async def opened(settings: GraphUpdaterSettings, definition: Space) -> AsyncIterator[Store]:
    """The store that the settings name, until the end of the block. Raises WrongSetting and Unavailable."""
    if settings.qdrant.url:
        server = QdrantStore(connect(settings.qdrant), definition, settings.qdrant)
        try:
            await server.start()
            yield server
        finally:
            await server.close()
        return
    embedded = _open_edge(settings, definition)
    embedded.start()
    try:
        yield embedded
    finally:
        await embedded.close()


async def _work(runtime: Runtime[GraphUpdaterSettings], graph: Graph, producer: kafka.Producer) -> None:
    settings = runtime.settings
    service = GraphService(graph.users, graph.items, graph.store, producer, graph.changes, settings)
    server = await rpc.serve(
        settings,
        runtime.name,
        lambda server: graph_pb2_grpc.add_GraphServiceServicer_to_server(service, server),
        [SERVICE_NAME],
        runtime.health,
    )
    streams = [
        _stream(runtime, producer, "users", USER_TOPICS, graph.on_users),
        _stream(runtime, producer, "items", ITEM_TOPICS, graph.on_items),
    ]
    tasks = _background(runtime.health, graph, settings.progress_timeout_seconds)
    try:
        await asyncio.gather(*(stream.start() for stream in streams))
        runtime.health.ready()
        await runtime.stopping.wait()
        runtime.health.not_ready("stopping")
    finally:
        await asyncio.gather(*(stream.stop() for stream in streams))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _announce_rest(graph.announcer)
        await server.stop(settings.stop_grace_seconds)


def _open_edge(settings: GraphUpdaterSettings, definition: Space) -> "EdgeStore":
    try:
        # Part of the extra `local`: a cluster's image does without it.
        from services.graph_updater.store_edge import open_edge
    except ImportError as error:
        raise WrongSetting(f"FINESTREAM_QDRANT_URL is not set and the embedded engine is missing: {error}") from None
    return open_edge(settings.qdrant.path, definition, settings.flush_seconds, settings.qdrant.collection_prefix)


def _stream(
    runtime: Runtime[GraphUpdaterSettings], producer: kafka.Producer, name: str, names: Sequence[str], handle: Handler
) -> Stream:
    settings = runtime.settings
    return Stream(
        name, names, handle, kafka=settings.kafka, producer=producer, health=runtime.health, worker=settings.worker,
        batch_size=settings.batch_size, stuck_seconds=settings.progress_timeout_seconds,
    )  # fmt: skip


def _background(health: Health, graph: Graph, max_silence_seconds: float) -> list[asyncio.Task[None]]:
    loops = {
        "announcer": graph.announcer.run(health.watch("announcer", max_silence_seconds)),
        "sweep": graph.sweep.run(health.watch("sweep", max_silence_seconds)),
        "counts": count_for_ever(graph.store),
    }
    tasks = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]
    for task in tasks:
        task.add_done_callback(_report)
    return tasks


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:  # a defect; /livez fails for its silence
        log.error("a background task ended", task=task.get_name(), exc_info=task.exception())


async def _announce_rest(announcer: Announcer) -> None:
    try:
        await announcer.flush(math.inf)
    except Unavailable as error:  # they are marked in the store, and announced at the next start
        log.warning("deferred items were not announced", error=str(error))


def main() -> None:
    run("graph_updater", GraphUpdaterSettings, compose)


if __name__ == "__main__":
    main()
