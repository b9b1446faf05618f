"""A ranking without Kafka: the real pipeline over a graph double, in this process."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest

from services.ranking import metrics
from services.ranking.batcher import Limits
from services.ranking.catalogue import Catalogue
from services.ranking.experiments import NO_EXPERIMENT, Experiment
from services.ranking.generation import Release
from services.ranking.graph import Graph
from services.ranking.inference import Inference
from services.ranking.pipeline import Pipeline
from services.ranking.rehearsal import rehearse
from services.ranking.requests import BY_SCORE, Query
from services.ranking.rules import NO_RULES, Rules
from services.ranking.servicer import Ranking
from services.ranking.similar import Similar
from services.ranking.stages.hydrate import Hydrate
from services.ranking.user_cache import UserCache
from shared.door.calls import open_door
from shared.events import ItemState
from shared.graph.state import ItemNode
from shared.pb.finestream.v1 import ranking_pb2, ranking_pb2_grpc
from shared.rpc import channel
from shared.service import Health
from shared.settings import GrpcSettings, ServiceSettings
from tests.services.ranking.doubles import DotModel, GraphDouble, item_of, serving, user_of
from tests.shared.door.doors import in_threads

SECONDS = 5.0
PLACES = 64
FULL = metrics.REFUSED.labels("full").inc


@dataclass
class World:
    """Everything of one ranking, wired as main.py wires it."""

    graph: GraphDouble
    client: Graph
    catalogue: Catalogue
    pipeline: Pipeline
    inference: Inference
    cache: UserCache
    similar: Similar
    rules: Rules = NO_RULES
    experiment: Experiment = NO_EXPERIMENT

    async def rank(self, user_id: str, k: int = 10, seconds: float = SECONDS, **rest: Any) -> ranking_pb2.RankResponse:
        return await self.pipeline.rank(Query(user_id, k, **rest), time.monotonic() + seconds)

    async def ids(self, user_id: str, k: int = 10, **rest: Any) -> list[str]:
        return [item.item_id for item in (await self.rank(user_id, k, **rest)).items]

    async def stock(self, nodes: Sequence[ItemNode]) -> None:
        """Put items into graph and catalogue, as item-states would."""
        self.graph.put(*nodes)
        await self.catalogue.tell([state_of(node) for node in nodes])
        while self.catalogue.pending:
            await self.catalogue.refresh()

    async def publish(self, model: Any = None, version: str = "v1") -> None:
        await self.catalogue.build(Release(version, model or DotModel()))


@asynccontextmanager
async def served(world: World) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to RankingService over the world, through its door, whose threads are this process's."""
    health = Health()
    servicer = Ranking(
        world.pipeline,
        world.similar,
        health,
        k_limit=100,
        deadline_seconds=SECONDS,
        max_bytes=1_000_000,
        arrangement=BY_SCORE,
    )

    def register(server: Any) -> None:
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(servicer, server)

    door = await open_door(ServiceSettings(), "ranking", register, health, PLACES, FULL, servicer.admit, in_threads)
    health.ready()
    try:
        async with channel(f"127.0.0.1:{door.port}", GrpcSettings()) as connection:
            yield connection
    finally:
        await door.stop(0)


def state_of(node: ItemNode, changes: Sequence[tuple[str, float]] = ()) -> ItemState:
    return ItemState(item_id=node.item_id, version=node.version, available=node.available, changes=list(changes))


@asynccontextmanager
async def opened(graph: GraphDouble | None = None, longest_wait: float = 0.005) -> AsyncIterator[World]:
    """A world over the double; over one of its own where none is given."""
    if graph is None:
        async with serving(GraphDouble()) as own, opened(own, longest_wait) as world:
            yield world
        return
    inference = Inference()
    connection = channel(f"127.0.0.1:{graph.port}", GrpcSettings())
    client = Graph(connection)
    catalogue = Catalogue(client, inference, rehearse, fetch_items=8, encode_items=3)
    cache = UserCache(1_000_000, 60.0)
    limits = Limits(16, longest_wait, 5.0, 256)
    batches = replace(limits, longest_wait=0.0)
    hydrate = Hydrate(client, catalogue, cache, 0.5, 256, limits)
    pipeline = Pipeline(
        hydrate,
        catalogue,
        inference,
        None,
        batches,
        tile_items=7,
        pool_items=20,
        new_item_users=10,
        rules=lambda: world.rules,
        experiment=lambda: world.experiment,
    )
    similar = Similar(catalogue, inference, batches, 7)
    world = World(graph, client, catalogue, pipeline, inference, cache, similar)
    pipeline.start()
    similar.start()
    yield world
    await similar.stop()
    await pipeline.stop()
    await connection.close(None)
    inference.close()


async def stocked(
    world: World, categories: Mapping[str, Sequence[str]], met: Sequence[str], model: bool = True
) -> World:
    """Items with these categories, each met by one more user than the one before, and the user `u`; once a world."""
    if not world.catalogue.current.facts.item_ids:
        await world.stock([item_of(i, users=n, categories=of) for n, (i, of) in enumerate(categories.items())])
        world.graph.put(user_of("u", met))
        if model:
            await world.publish()
    return world


@pytest.fixture
async def graph() -> AsyncIterator[GraphDouble]:
    async with serving(GraphDouble()) as double:
        yield double


@pytest.fixture
async def world(graph: GraphDouble) -> AsyncIterator[World]:
    async with opened(graph) as started:
        yield started
