"""services/ranking/inference.py: what nobody waits for goes between what somebody waits for, and does go."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from services.ranking.inference import Inference

SECONDS = 10.0  # until a test has failed


@pytest.fixture
async def inference() -> AsyncIterator[Inference]:
    made = Inference(patience=30.0)
    yield made
    made.close()


def noting(order: list[str], name: str) -> Callable[[], None]:
    return lambda: order.append(name)


async def in_between(inference: Inference, job: Callable[[], None]) -> None:
    async with inference.between():
        await inference.run(job)


async def test_a_job_between_others_lets_those_go_first_that_come_while_it_waits(inference: Inference) -> None:
    order: list[str] = []
    gate = threading.Event()
    first = asyncio.create_task(inference.run(gate.wait, SECONDS))
    await asyncio.sleep(0)
    patient = [asyncio.create_task(in_between(inference, noting(order, name))) for name in ("put", "another")]
    await asyncio.sleep(0)
    later = asyncio.create_task(inference.run(noting(order, "ranking")))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, later, *patient)
    assert order == ["ranking", "put", "another"]


async def test_it_waits_for_all_that_are_under_way_and_goes_alone(inference: Inference) -> None:
    order: list[str] = []
    gates = [threading.Event() for _ in range(3)]
    first, second = (asyncio.create_task(inference.run(gate.wait, SECONDS)) for gate in gates[:2])
    await asyncio.sleep(0)

    def put() -> None:
        order.append("put")
        begun.set()
        gates[2].wait(SECONDS)

    begun = threading.Event()
    patient = [asyncio.create_task(in_between(inference, job)) for job in (put, noting(order, "another"))]
    gates[0].set()
    await first
    for _ in range(20):  # what does not wait for the second would go now
        await asyncio.sleep(0)
    later = asyncio.create_task(inference.run(noting(order, "ranking")))
    await asyncio.sleep(0)
    gates[1].set()
    await asyncio.gather(second, later, asyncio.to_thread(begun.wait, SECONDS))
    last = asyncio.create_task(inference.run(noting(order, "another ranking")))
    await asyncio.sleep(0)
    gates[2].set()
    await asyncio.gather(last, *patient)
    assert order == ["ranking", "put", "another ranking", "another"]


async def test_where_there_is_always_a_ranking_a_job_between_others_has_its_turn_when_its_patience_ends() -> None:
    inference, done = Inference(patience=0.01), asyncio.Event()

    async def ranking() -> None:
        while not done.is_set():
            await inference.run(lambda: None)

    try:
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(ranking())
            await asyncio.sleep(0)
            await in_between(inference, lambda: None)
            done.set()
    finally:
        inference.close()


async def test_a_job_that_fails_leaves_no_trace(inference: Inference) -> None:
    with pytest.raises(ZeroDivisionError):
        await inference.run(lambda: 1 // 0)
    async with asyncio.timeout(SECONDS):
        await in_between(inference, lambda: None)
