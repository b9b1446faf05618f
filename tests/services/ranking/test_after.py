"""`after`: a ranking waits within its deadline until the named events are reflected, and holds up nobody else."""

import asyncio
import time

import pytest

from services.ranking.requests import After
from shared.errors import DeadlineExceeded
from shared.pb.finestream.v1 import ranking_pb2
from tests.parts import until
from tests.services.ranking.conftest import World, state_of
from tests.services.ranking.doubles import item_of, user_of

USER_EVENT = After("interactions", 0, 7, "u")
ITEM_EVENT = After("items", 0, 7, "new")


async def ready(world: World) -> None:
    await world.stock([item_of(f"i{n}", users=n) for n in range(9)])
    await world.publish()
    world.graph.put(user_of("u", ["i1"], positions={"interactions": (0, 6)}))


async def test_a_users_event_is_in_the_ranking_that_waited_for_it(world: World) -> None:
    await ready(world)
    asking = asyncio.create_task(world.rank("u", after=(USER_EVENT,)))
    await until(lambda: bool(world.graph.calls), 5, "the state is asked for")
    assert not asking.done()
    world.graph.put(user_of("u", ["i1", "i2"], positions={"interactions": (0, 7)}))
    answer = await asking
    assert "i2" not in [item.item_id for item in answer.items]


async def test_a_request_that_waits_holds_up_nobody(world: World) -> None:
    await ready(world)
    asking = asyncio.create_task(world.rank("u", after=(USER_EVENT,)))
    begun = time.monotonic()
    answers = await asyncio.gather(*(world.rank("u") for _ in range(20)))
    assert time.monotonic() - begun < 2.0
    assert all(answer.rung == ranking_pb2.RUNG_FULL for answer in answers)
    assert not asking.done()
    asking.cancel()


async def test_an_event_that_does_not_come_ends_at_the_deadline_with_a_sentence(world: World) -> None:
    await ready(world)
    with pytest.raises(DeadlineExceeded, match="not reflected yet"):
        await world.rank("u", after=(USER_EVENT,), seconds=0.1)


async def test_a_silent_graph_updater_never_makes_it_answer_from_an_older_state(world: World) -> None:
    await ready(world)
    await world.rank("u")
    world.graph.silent = True
    with pytest.raises(DeadlineExceeded, match="not reflected yet"):
        await world.rank("u", after=(USER_EVENT,), seconds=0.2)
    asking = asyncio.create_task(world.rank("u", after=(USER_EVENT,)))
    world.graph.put(user_of("u", ["i2"], positions={"interactions": (0, 7)}))
    world.graph.silent = False
    assert (await asking).rung == ranking_pb2.RUNG_FULL


async def test_an_item_is_in_the_ranking_that_waited_for_it(world: World) -> None:
    await ready(world)
    asking = asyncio.create_task(world.rank("u", after=(ITEM_EVENT,)))
    await world.stock([item_of("new", offset=6)])
    assert not asking.done()
    await world.stock([item_of("new", 2, offset=7)])
    assert "new" in [item.item_id for item in (await asking).items]
    assert (await world.rank("u", after=(ITEM_EVENT,))).items


async def test_an_item_that_came_with_a_new_generation_counts(world: World) -> None:
    await ready(world)
    asking = asyncio.create_task(world.rank("u", after=(ITEM_EVENT,)))
    await asyncio.sleep(0)
    new = item_of("new", offset=8)
    world.graph.put(new)
    await world.catalogue.tell([state_of(new)])
    await world.publish(version="v2")
    assert "new" in [item.item_id for item in (await asking).items]


async def test_an_item_that_does_not_come_ends_at_the_deadline_and_is_forgotten(world: World) -> None:
    await ready(world)
    with pytest.raises(DeadlineExceeded, match="not reflected yet"):
        await world.rank("u", after=(ITEM_EVENT,), seconds=0.1)
    assert world.catalogue._waiters == {}
