"""Qdrant slow, with errors, silent and gone; and a second graph_updater that comes and goes over the same Qdrant.

Qdrant is a test double of its REST interface (qdrant_double.py), or with FINESTREAM_QDRANT_URL the server there,
which is then broken by a forwarding server in front of it.
"""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.group import LeaveGroupRequest

from shared.kafka import client_options, group_of
from shared.local.child import Child, Part, http_ready
from tests.chaos.breaking import FAULTS, SEED, TIMEOUT_SECONDS, break_often, metric, probe, until_fresh, until_more
from tests.chaos.outages import HOST, Outages, forwarding, serving
from tests.chaos.qdrant_double import QdrantDouble
from tests.e2e.conftest import System, running
from tests.parts import free_port, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(TIMEOUT_SECONDS)]
GRAPH: Final = "graph_updater"
STREAMS: Final = ("users", "items")
CALL_SECONDS: Final = 2  # FINESTREAM_QDRANT_TIMEOUT_SECONDS
SLOW_SECONDS: Final = 1.0  # less, so that calls succeed
FELT_SECONDS: Final = 60.0
Felt = Callable[[System, Outages], Awaitable[None]]


@pytest.fixture
async def qdrant() -> AsyncIterator[Outages]:
    real = os.environ.get("FINESTREAM_QDRANT_URL")
    async with aiohttp.ClientSession() as session:
        routes = forwarding(session, real) if real else QdrantDouble().routes()
        async with serving(routes, SEED) as server:
            yield server


@pytest.fixture
async def system(tmp_path: Path, qdrant: Outages) -> AsyncIterator[System]:
    over_rest = {
        "FINESTREAM_QDRANT_URL": qdrant.url,
        "FINESTREAM_QDRANT_PREFER_GRPC": "false",
        "FINESTREAM_QDRANT_TIMEOUT_SECONDS": str(CALL_SECONDS),
    }
    async with running(tmp_path, **over_rest) as started:
        yield started


async def calls_disturbed(_: System, qdrant: Outages) -> None:
    before = qdrant.disturbed
    await until(lambda: qdrant.disturbed >= before + 5, FELT_SECONDS, "calls of Qdrant are disturbed")


async def streams_backed_off(system: System, _: Outages) -> None:
    await until_more(system, GRAPH, "finestream_stream_retries_total", 3.0)


@pytest.mark.parametrize(
    ("name", "outage", "felt"),
    [
        ("slow", lambda qdrant: qdrant.slow(SLOW_SECONDS), calls_disturbed),
        ("answering every second call with an error", lambda qdrant: qdrant.erring(0.5), streams_backed_off),
        ("answering nothing but errors", lambda qdrant: qdrant.erring(1.0), streams_backed_off),
        ("silent", Outages.silent, streams_backed_off),
        ("gone", Outages.gone, streams_backed_off),
    ],
)
async def test_a_qdrant_that_fails_for_a_while_makes_events_wait_and_loses_nothing(
    system: System,
    qdrant: Outages,
    name: str,
    outage: Callable[[Outages], AbstractAsyncContextManager[None]],
    felt: Felt,
) -> None:
    async def fail_for_a_while() -> float:
        async with outage(qdrant):
            await probe(system)  # so that there is work, also where all was done already
            await felt(system, qdrant)
        return await until_fresh(system)

    await break_often(system, fail_for_a_while, f"Qdrant {name}")


class SecondWorker:
    """Another graph_updater with a slot and ports of its own."""

    def __init__(self, system: System, admin: AIOKafkaAdminClient) -> None:
        self._system = system
        self._admin = admin
        self._child: Child | None = None
        self._own: set[tuple[str, str]] = set()  # its members of the groups

    async def join(self) -> None:
        port = free_port()
        self._url = f"http://{HOST}:{port}"
        own = {"WORKER": "1", "PORT": "0", "METRICS_PORT": str(port)}
        part = Part(
            f"{GRAPH}-1",
            [sys.executable, "-m", f"services.{GRAPH}.main"],
            http_ready(f"{self._url}/readyz"),
            env={**self._system.layout.env, **{f"FINESTREAM_GRAPH_UPDATER_{k}": v for k, v in own.items()}},
        )
        before = await self._members()
        self._child = await Child.spawn(part, lambda name, line: self._system.logs.append(f"{name}: {line}"))
        await self._child.until_ready()
        self._own = await self._members() - before

    async def finished(self) -> float:
        """How many records it has brought to their end."""
        return await metric(f"{self._url}/metrics", "finestream_stream_records_total")

    async def stop(self) -> None:
        if self._child is not None:
            child, self._child = self._child, None
            assert await child.stop() == ""
            await self._end_sessions()

    async def kill(self) -> None:
        assert self._child is not None
        child, self._child = self._child, None
        await child.kill()
        await self._end_sessions()

    async def _end_sessions(self) -> None:
        """What Kafka does a session's time after the last heartbeat, and the embedded broker never does."""
        if self._system.layout.embedded_broker:
            for group, member in self._own:
                coordinator = await self._admin.find_coordinator(group)
                await self._admin._send_request(LeaveGroupRequest(group, member), coordinator)

    async def _members(self) -> set[tuple[str, str]]:
        """(group, member id) of all that are in graph_updater's groups."""
        groups = [group_of(self._system.kafka, stream) for stream in STREAMS]
        # One by one: the embedded broker answers for several in a form that cannot be read.
        answers = [await self._admin.describe_consumer_groups([group]) for group in groups]
        return {(g[1], member[0]) for (answer,) in answers for g in answer.groups for member in g[5]}


@pytest.fixture
async def second(system: System) -> AsyncIterator[SecondWorker]:
    admin = AIOKafkaAdminClient(**client_options(system.kafka))
    await admin.start()
    worker = SecondWorker(system, admin)
    yield worker
    await worker.stop()
    await admin.close()


async def test_a_second_graph_updater_that_joins_and_leaves_loses_nothing(system: System, second: SecondWorker) -> None:
    async def join() -> None:
        await second.join()
        await until_fresh(system)
        await until(shares, FELT_SECONDS, "the second worker takes its share")

    async def shares() -> bool:
        await probe(system)
        return await second.finished() > 0

    async def kill_the_first() -> None:
        await system.supervisor.restart(GRAPH)

    steps = [join, second.stop, join, kill_the_first, second.kill]
    rounds = max(1, FAULTS // len(steps))
    following = iter(steps * rounds)

    async def next_step() -> float:
        await next(following)()
        return await until_fresh(system)

    await break_often(system, next_step, "a second graph_updater that joins and leaves", len(steps) * rounds)
