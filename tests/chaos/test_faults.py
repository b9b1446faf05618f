"""Services and the broker broken on purpose while a stream runs: nothing lost, live states equal to a rebuild.

`make chaos` runs it; FINESTREAM_CHAOS_EVENTS, _FAULTS and _SEED make it shorter, longer or another one. It prints how
long each fault took to recover from. The embedded broker is only ever stopped, never killed: it is not durable.
"""

import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from shared import rpc, topics
from shared.cli.demo.drain import until_drained
from shared.cli.screen import Screen
from shared.events import Item
from shared.graph import fold
from shared.local import verify
from shared.local.layout import BROKER
from shared.local.ledger import Sent, id_of
from shared.pb.finestream.v1 import graph_pb2, graph_pb2_grpc
from shared.settings import GrpcSettings
from tests.chaos.story import story
from tests.e2e.conftest import System, running

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3 * 3600)]
EVENTS = int(os.environ.get("FINESTREAM_CHAOS_EVENTS", "50000"))
FAULTS = int(os.environ.get("FINESTREAM_CHAOS_FAULTS", "50"))
SEED = int(os.environ.get("FINESTREAM_CHAOS_SEED", "1"))
SERVICES = ["extractor", "graph_updater", "archiver", "ranking", "gateway"]
EVERY_TOPIC = [topic.name for topic in topics.ALL]
SETTLE_SECONDS = 60.0


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with running(tmp_path) as started:
        yield started


@pytest.mark.parametrize("victim", SERVICES)
async def test_a_service_killed_at_random_points_of_a_stream_loses_nothing(system: System, victim: str) -> None:
    async def kill() -> None:
        await system.supervisor.restart(victim)

    await break_often(system, kill, f"SIGKILL of {victim}", FAULTS)


@pytest.mark.skipif("FINESTREAM_KAFKA_BOOTSTRAP" in os.environ, reason="the broker that is set is not ours to stop")
async def test_a_broker_that_stops_and_starts_again_loses_nothing(system: System) -> None:
    async def stop_and_start() -> None:
        before = await system.watch.ends(EVERY_TOPIC)
        await system.supervisor.restart(BROKER, kill=False)
        kept = await system.watch.ends(EVERY_TOPIC)
        lost = {(t, p): (end, kept[t][p]) for t, ends in before.items() for p, end in ends.items() if kept[t][p] < end}
        assert not lost, "the broker itself forgot acknowledged records"

    await break_often(system, stop_and_start, "restart of the broker", max(1, FAULTS // 10))


async def break_often(system: System, fault: Callable[[], Awaitable[None]], name: str, faults: int) -> None:
    """A stream with so many faults at random points of it, and with users forgotten on the way."""
    rng, seconds = random.Random(f"{SEED} {name}"), list[float]()
    told = list(story(EVENTS, rng.randrange(2**32)))
    points = sorted(rng.sample(range(1, EVENTS), faults))
    for here, there in zip([0, *points], [*points, EVENTS], strict=True):
        await system.send(told[here:there])
        if there < EVENTS:
            began = time.monotonic()
            await fault()
            seconds.append(time.monotonic() - began)
        if rng.random() < 10 / (faults + 1):
            await forget(system, f"u{rng.randrange(20)}")
    began = time.monotonic()
    await check(system, told)
    print(f"{name}: {faults} times; recovered in {sum(seconds) / faults:.1f} s, at most {max(seconds):.1f} s;"
          f" drained and compared {time.monotonic() - began:.1f} s after the last event")  # fmt: skip


async def forget(system: System, user_id: str) -> None:
    async with rpc.channel(system.layout.env["FINESTREAM_GRAPH_ADDRESS"], GrpcSettings()) as channel:
        stub = graph_pb2_grpc.GraphServiceStub(channel)
        await stub.ForgetUser(graph_pb2.ForgetUserRequest(user_id=user_id), timeout=30, wait_for_ready=True)


async def check(system: System, told: Sequence[Sent]) -> None:
    """All but what forgotten users did is there, nothing is a dead letter, and live states are the archive's fold."""
    await until_drained(system.watch, system.archive_url, system.ledger, Screen(Console()), "draining")
    found = verify.read(system.archive_url)
    forgotten = {user for user, state in found.users.items() if state.erased_at}
    of_forgotten = {id_of(event) for event in told if not isinstance(event, Item) and event.user_id in forgotten}
    accounts = await system.accounts(found)
    assert {name for ids in accounts.lost.values() for name in ids} - of_forgotten == set()
    assert set(accounts.unanswered) - of_forgotten == set()
    assert accounts.dead == {}
    assert await verify.differing(found.users, system.client.users, fold.same_user, SETTLE_SECONDS) == []
    assert await verify.differing(found.items, system.client.items, fold.same_item, SETTLE_SECONDS) == []
