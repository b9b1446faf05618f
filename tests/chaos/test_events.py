"""Events as bad as producers make them: in any order, repeated, days late, and clocks that are wrong, also our own."""

import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from shared.events import Item, Reason
from shared.graph import fold
from shared.graph.state import ItemNode, UserState
from shared.local.ledger import CHUNK, Sent, chunks, id_of
from tests.chaos.breaking import EVENTS, SEED, TIMEOUT_SECONDS, check, forget, until_fresh
from tests.chaos.story import DAY, story
from tests.e2e.conftest import running

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(TIMEOUT_SECONDS)]
MINUTE: Final = 60.0
HOUR: Final = 3600.0
SKEWED: Final = Path(__file__).with_name("skewed")  # sitecustomize.py, which puts clocks wrong
RIGHT, DAYS_BEHIND, AHEAD, TOO_FAR_AHEAD = 0.0, -5 * DAY, 4 * MINUTE, 6 * MINUTE  # 5 minutes are taken
CLOCKS: Final = (RIGHT, DAYS_BEHIND, AHEAD, TOO_FAR_AHEAD)


async def test_a_stream_told_twice_in_any_order_leaves_the_states_of_one_told_once_in_order(tmp_path: Path) -> None:
    told = list({fact_of(event): event for event in story(EVENTS, SEED)}.values())
    shuffled = [*told, *told]
    random.Random(SEED).shuffle(shuffled)
    users, items = await states_after(tmp_path / "once", sorted(told, key=lambda event: event.ts))
    other_users, other_items = await states_after(tmp_path / "twice", shuffled)
    assert users.keys() == other_users.keys()
    assert items.keys() == other_items.keys()
    assert [u for u, state in users.items() if not fold.same_user(state, other_users[u])] == []
    assert [i for i, state in items.items() if not fold.same_item(state, other_items[i])] == []


async def states_after(folder: Path, told: Sequence[Sent]) -> tuple[dict[str, UserState], dict[str, ItemNode]]:
    """The live states of a system of its own that was told this; also checked to be the fold of its archive."""
    async with running(folder) as system:
        began = time.monotonic()
        await system.send(list(told))
        found = await check(system, told)
        print(f"{len(told)} events in {folder.name}: sent, drained and compared in {time.monotonic() - began:.1f} s")
        return await system.client.users(sorted(found.users)), await system.client.items(sorted(found.items))


async def test_clocks_days_behind_or_minutes_ahead_are_taken_and_those_too_far_ahead_hurt_only_themselves(
    tmp_path: Path,
) -> None:
    stamped: dict[tuple[str, float], Sent] = {}
    async with running(tmp_path) as system:
        began = time.monotonic()
        for part in chunks(story(EVENTS, SEED), CHUNK):
            for event in part:
                stamped.setdefault(fact_of(event), stamp(event, time.time()))
            await system.send([stamped[fact_of(event)] for event in part])
        told = list(stamped.values())
        dead: Mapping[str, Reason] = {id_of(event): "in_future" for event in told if clock_of(event) == TOO_FAR_AHEAD}
        found = await check(system, told, dead)
        refused = {e.user_id for e in told if not isinstance(e, Item) and clock_of(e) == TOO_FAR_AHEAD}
        others = {e.user_id for e in told if not isinstance(e, Item)} - refused
        assert refused, "the story has such users"
        assert found.users.keys() == others
        assert await system.client.users(sorted(refused)) == {}
        print(f"wrong clocks: {len(dead)} of {len(told)} events refused; sent, drained and compared in"
              f" {time.monotonic() - began:.1f} s")  # fmt: skip


async def test_services_whose_clocks_are_wrong_lose_nothing_and_forget_what_they_are_told_to(tmp_path: Path) -> None:
    told = [e if isinstance(e, Item) else replace(e, ts=time.time() - e.ts % 100) for e in story(EVENTS, SEED)]
    clocks = {
        "extractor": 3 * HOUR,
        "graph_updater": -3 * HOUR,
        "archiver": 2 * HOUR,
        "ranking": -HOUR,
        "gateway": HOUR,
    }
    python = os.pathsep.join(filter(None, [str(SKEWED), os.environ.get("PYTHONPATH")]))
    async with running(tmp_path, PYTHONPATH=python, SKEWED_CLOCKS=json.dumps(clocks)) as system:
        began = time.monotonic()
        await system.send(told)
        sent = time.time()
        seconds = await until_fresh(system)
        gone = {"u1", "u2", "u3"}
        up_to = [await forget(system, user) for user in sorted(gone)]
        assert max(up_to) <= sent, "its clock is behind, so that the users' newest events tell the time"
        found = await check(system, told)
        assert {user for user, state in found.users.items() if state.erased_at} == gone
        live = await system.client.users(sorted(gone))
        assert [user for user, state in live.items() if state.interactions or state.reviews] == []
        print(f"wrong clocks of services: newest event showed after {seconds:.1f} s; sent, forgotten, drained and"
              f" compared in {time.monotonic() - began:.1f} s")  # fmt: skip


def fact_of(event: Sent) -> tuple[str, float]:
    """What a repeat has in common with the first telling, and an edit has not."""
    return id_of(event), event.ts


def clock_of(event: Sent) -> float:
    """How wrong the clock of the event's producer is; each user has one."""
    return RIGHT if isinstance(event, Item) else CLOCKS[int(event.user_id[1:]) % len(CLOCKS)]


def stamp(event: Sent, now: float) -> Sent:
    """The event as if it happened within the last ten seconds, by its producer's clock."""
    return event if isinstance(event, Item) else replace(event, ts=now + clock_of(event) - event.ts % 10)
