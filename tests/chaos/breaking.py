"""What every chaos test does: tell a stream, break something at random points of it, and account for everything.

FINESTREAM_CHAOS_EVENTS, _FAULTS and _SEED make it shorter, longer or another one.
"""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from typing import Final

import aiohttp
import grpc
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from shared import rpc, topics
from shared.cli.demo.drain import until_drained
from shared.cli.screen import Screen
from shared.events import Interaction, Item, Reason
from shared.graph import fold
from shared.local import verify
from shared.local.ledger import Sent, id_of
from shared.local.verify import Archived
from shared.pb.finestream.v1 import graph_pb2, graph_pb2_grpc
from shared.settings import GrpcSettings
from tests.chaos.story import BASE, story
from tests.e2e.conftest import System
from tests.parts import until

EVENTS: Final = int(os.environ.get("FINESTREAM_CHAOS_EVENTS", "50000"))
FAULTS: Final = int(os.environ.get("FINESTREAM_CHAOS_FAULTS", "50"))
SEED: Final = int(os.environ.get("FINESTREAM_CHAOS_SEED", "1"))
TIMEOUT_SECONDS: Final = 3 * 3600
SETTLE_SECONDS: Final = 60.0
FELT_SECONDS: Final = 120.0  # for a fault to show
RECOVERY_SECONDS: Final = 180.0  # more than the longest back-off and a rebalance
EVERY_TOPIC: Final = [topic.name for topic in topics.ALL]
PROBES: Final = [f"probe-{n}" for n in range(32)]  # so many users have one in every partition
Fault = Callable[[], Awaitable[float]]  # breaks and mends something; how many seconds the system then needed
_numbers = count()


async def break_often(system: System, fault: Fault, name: str, faults: int = FAULTS) -> None:
    """A stream with so many faults at random points of it, and with users forgotten on the way."""
    rng, seconds = random.Random(f"{SEED} {name}"), list[float]()
    told = list(story(EVENTS, rng.randrange(2**32)))
    points = sorted(rng.sample(range(1, EVENTS), faults))
    for here, there in zip([0, *points], [*points, EVENTS], strict=True):
        await system.send(told[here:there])
        if there < EVENTS:
            seconds.append(await fault())
        if rng.random() < 10 / (faults + 1):
            await forget(system, f"u{rng.randrange(20)}")
    began = time.monotonic()
    await check(system, told)
    print(f"{name}: {faults} times; recovered in {sum(seconds) / faults:.1f} s, at most {max(seconds):.1f} s;"
          f" drained and compared {time.monotonic() - began:.1f} s after the last event")  # fmt: skip


async def forget(system: System, user_id: str) -> float:
    """Up to which time the user is forgotten."""
    async with rpc.channel(system.layout.env["FINESTREAM_GRAPH_ADDRESS"], GrpcSettings()) as channel:
        stub = graph_pb2_grpc.GraphServiceStub(channel)
        request = graph_pb2.ForgetUserRequest(user_id=user_id)
        return float((await stub.ForgetUser(request, timeout=30, wait_for_ready=True)).erased_at)


async def check(system: System, told: Sequence[Sent], dead: Mapping[str, Reason] | None = None) -> Archived:
    """All but what forgotten users did is there, only `dead` are dead letters, live states are the archive's fold."""
    await until_drained(system.watch, system.archive_url, system.ledger, Screen(Console()), "draining")
    # In a thread: the tests' own servers are in this loop, and must go on answering.
    found = await asyncio.to_thread(verify.read, system.archive_url, space=system.kafka.space)
    forgotten = {user for user, state in found.users.items() if state.erased_at}
    of_forgotten = {id_of(event) for event in told if not isinstance(event, Item) and event.user_id in forgotten}
    accounts = await system.accounts(found)
    assert {name for ids in accounts.lost.values() for name in ids} - of_forgotten == set()
    assert set(accounts.unanswered) - of_forgotten == set()
    assert _others(accounts.dead, of_forgotten) == _others(dead or {}, of_forgotten)  # theirs are taken back
    assert await verify.differing(found.users, system.client.users, fold.same_user, SETTLE_SECONDS) == []
    assert await verify.differing(found.items, system.client.items, fold.same_item, SETTLE_SECONDS) == []
    return found


def _others(dead: Mapping[str, Reason], of_forgotten: set[str]) -> dict[str, Reason]:
    return {name: reason for name, reason in dead.items() if name not in of_forgotten}


async def probe(system: System) -> dict[str, str]:
    """Send one new event of every probe user, which makes all partitions move; user -> event id."""
    number = next(_numbers)
    sent = {user: f"{user}-{number}" for user in PROBES}
    await system.send(
        [Interaction(event_id=e, user_id=u, item_id="i0", ts=BASE + number) for u, e in sent.items()]
    )  # fmt: skip
    return sent


async def until_fresh(system: System) -> float:
    """Wait until what is sent now, behind all that waits, shows in the live states; how many seconds that took."""
    began = time.monotonic()
    sent = await probe(system)

    async def shown() -> bool:
        try:
            live = await system.client.users(PROBES)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False  # the channel has not found it again since it was away
        return all(
            user in live and any(slot.event_id == event_id for slot in live[user].interactions)
            for user, event_id in sent.items()
        )

    await until(shown, RECOVERY_SECONDS, "new events show in the live states")
    return time.monotonic() - began


async def until_more(system: System, service: str, name: str, more: float = 1.0, **labels: str) -> None:
    """Wait until a counter of the service has grown by so much from what it is now."""
    before = await metric(system.layout.ports.metrics_url(service), name, **labels)

    async def grown() -> bool:
        return await metric(system.layout.ports.metrics_url(service), name, **labels) >= before + more

    await until(grown, FELT_SECONDS, f"{name} of {service} grows by {more:g}")


async def metric(url: str, name: str, **labels: str) -> float:
    """The sum of the samples with these labels; 0 where there is none."""
    async with aiohttp.ClientSession() as session, session.get(url, params={"name[]": name}) as answer:
        text = await answer.text()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
