"""SIGKILL any one service during the stream and start it again: nothing lost, state equal to a rebuild."""

import asyncio
import random

import grpc
import pytest
from rich.console import Console

from shared import topics
from shared.cli.demo.drain import until_drained
from shared.cli.screen import Screen
from shared.events import Interaction, Item, Review
from shared.graph import fold
from shared.local import verify
from tests.e2e.conftest import System

# Each service has a test of its own that kills it; this one, of all together, is for `make test-all`, as is chaos.
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(420)]
VICTIMS = ["extractor", "graph_updater", "archiver", "ranking", "gateway"]
CHUNKS, CLICKS, REVIEWS = 30, 60, 6
BASE = 1_600_000_000.0
WORDS = ["The neck feels great.", "The strings break fast.", "Awful sound, but it looks nice.", "Not worth the price."]


def chunk_of(number: int, rng: random.Random) -> list[Interaction | Review | Item]:
    """One thirtieth of the stream: items, clicks, reviews, and one edit of an earlier review."""
    made: list[Interaction | Review | Item] = [
        Item(item_id=f"i{number}", ts=BASE, title=f"Guitar {number}", description="A guitar with a maple neck.")
    ]
    for n in range(CLICKS):
        made.append(
            Interaction(event_id=f"e{number}-{n}", user_id=f"u{rng.randrange(80)}", item_id=f"i{rng.randrange(CHUNKS)}",
                        ts=BASE + rng.randrange(10**6))
        )  # fmt: skip
    for n in range(REVIEWS):
        edited = n == 0 and number > 0
        name = f"r{number - 1}-1" if edited else f"r{number}-{n}"
        user = int(name.removeprefix("r").split("-")[0]) % 40
        made.append(
            Review(review_id=name, user_id=f"u{user}", item_id=f"i{user % CHUNKS}", ts=BASE + number * 1000 + n,
                   text=rng.choice(WORDS) + f" ({number}-{n})", rating=3.0)
        )  # fmt: skip
    return made


async def publish_until_taken(system: System, event: Interaction) -> None:
    """As a producer does: try again while the gateway is away. A repeat is the same fact."""
    async with asyncio.timeout(60):
        while True:
            try:
                system.ledger.add(event, await system.client.publish(event))
                return
            except grpc.aio.AioRpcError as error:
                assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error.details()
                await asyncio.sleep(0.1)


async def test_any_service_may_be_killed_during_the_stream(system: System) -> None:
    rng = random.Random(7)
    kill_at = dict(zip(sorted(rng.sample(range(2, CHUNKS - 2), len(VICTIMS))), VICTIMS, strict=True))
    restarts = []
    for number in range(CHUNKS):
        await system.send(chunk_of(number, rng))
        click = Interaction(event_id=f"g{number}", user_id=f"u{number}", item_id="i0", ts=BASE + number)
        await publish_until_taken(system, click)
        if number in kill_at:
            restarts.append(asyncio.create_task(system.supervisor.restart(kill_at[number])))
    await asyncio.gather(*restarts)
    assert len(restarts) == len(VICTIMS)

    await until_drained(system.watch, system.archive_url, system.ledger, Screen(Console()), "draining")
    found = verify.read(system.archive_url)
    accounts = await system.accounts(found)
    assert accounts.lost_count == 0, accounts.lost
    assert accounts.dead == {}
    assert accounts.unanswered == []
    assert len(found.ids[topics.INTERACTIONS]) == CHUNKS * (CLICKS + 1)
    assert await verify.differing(found.users, system.client.users, fold.same_user, 20) == []
    assert await verify.differing(found.items, system.client.items, fold.same_item, 20) == []
