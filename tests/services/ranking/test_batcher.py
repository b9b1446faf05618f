"""services/ranking/batcher.py: what arrives together is worked on together; overload is refused at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from services.ranking.batcher import Limits, MicroBatcher, Ticket
from shared.errors import DeadlineExceeded, Overloaded
from tests.parts import until


class Doubling:
    """Answers 2x; waits for `gate`; fails for -1."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, tickets: Sequence[Ticket[int, int]]) -> None:
        queries = [ticket.query for ticket in tickets]
        self.batches.append(queries)
        await self.gate.wait()
        if -1 in queries:
            raise ValueError("poison")
        for ticket in tickets:
            ticket.settle(2 * ticket.query)


@pytest.fixture
async def doubling() -> Doubling:
    return Doubling()


async def started(run: Doubling, cost: Callable[[int], int] = lambda _: 1, **limits: float) -> MicroBatcher[int, int]:
    held = {"largest": 4, "longest_wait": 0.05, "oldest_age": 5.0, "queue": 100, **limits}
    batcher: MicroBatcher[int, int] = MicroBatcher("test", run, Limits(**held), cost)  # type: ignore[arg-type]
    batcher.start()
    return batcher


@pytest.fixture
async def batcher(doubling: Doubling) -> AsyncIterator[MicroBatcher[int, int]]:
    batcher = await started(doubling)
    yield batcher
    doubling.gate.set()
    await batcher.stop()


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


async def test_requests_that_arrive_together_share_a_batch_and_get_their_own_answers(
    doubling: Doubling, batcher: MicroBatcher[int, int]
) -> None:
    assert await asyncio.gather(*(batcher.submit(i, soon()) for i in range(6))) == [0, 2, 4, 6, 8, 10]
    assert doubling.batches == [[0, 1, 2, 3], [4, 5]]


async def test_a_dear_request_takes_the_place_of_others_and_is_taken_alone_where_it_costs_more_than_a_batch(
    doubling: Doubling,
) -> None:
    batcher = await started(doubling, cost=lambda query: query)
    assert await asyncio.gather(*(batcher.submit(i, soon()) for i in (3, 1, 2, 9, 1, 1))) == [6, 2, 4, 18, 2, 2]
    assert doubling.batches == [[3, 1], [2], [9], [1, 1]]
    await batcher.stop()


async def test_a_lonely_request_waits_no_longer_than_the_longest_wait(batcher: MicroBatcher[int, int]) -> None:
    begun = time.monotonic()
    assert await batcher.submit(1, soon()) == 2
    assert time.monotonic() - begun < 1.0


async def test_a_request_that_waits_for_nobody_takes_along_who_is_there(doubling: Doubling) -> None:
    batcher = await started(doubling, longest_wait=60.0)
    assert await asyncio.wait_for(batcher.give(1, soon(600), wait=0.0), 10) == 2
    together = batcher.give(2, soon(600), wait=0.0), batcher.give(3, soon(600))
    assert await asyncio.wait_for(asyncio.gather(*together), 10) == [4, 6]
    assert doubling.batches == [[1], [2, 3]]
    await batcher.stop()


async def test_who_is_hurried_waits_no_longer_than_the_limits_say(doubling: Doubling) -> None:
    batcher = await started(doubling, longest_wait=0.0)
    patient = batcher.give(1, soon(600), wait=60.0), batcher.give(2, soon(600), wait=60.0)
    batcher.hurry()
    assert await asyncio.wait_for(asyncio.gather(*patient), 10) == [2, 4]
    batcher.hurry()  # whom nobody hears
    await batcher.stop()
    batcher = await started(doubling, longest_wait=60.0)
    kept = batcher.give(3, soon(600))
    for _ in range(9):
        await asyncio.sleep(0)  # a worker begins to wait
    batcher.hurry()
    since = time.monotonic()
    await until(lambda: time.monotonic() - since > 0.1, 5, "a worker would have had its turn")
    assert not kept.done()
    await batcher.stop()
    assert doubling.batches == [[1, 2]]


async def test_it_tells_when_nothing_is_left_to_do(doubling: Doubling) -> None:
    told: list[list[list[int]]] = []
    limits = Limits(largest=1, longest_wait=0.0, oldest_age=5.0, queue=100)
    batcher: MicroBatcher[int, int] = MicroBatcher(
        "test", doubling, limits, at_rest=lambda: told.append([*doubling.batches])
    )
    batcher.start()
    assert await asyncio.gather(*(batcher.submit(i, soon()) for i in (1, 2))) == [2, 4]
    await batcher.rest()
    assert told == [[[1], [2]]], "not between the two"
    await batcher.stop()


async def test_a_batch_that_becomes_full_waits_no_longer(doubling: Doubling) -> None:
    batcher = await started(doubling, longest_wait=60.0)
    answers = []
    for i in range(4):
        answers.append(asyncio.create_task(batcher.submit(i, soon(600))))
        await asyncio.sleep(0.001)  # each arrives by itself
        assert doubling.batches == ([] if i < 3 else [[0, 1, 2, 3]])
    assert await asyncio.wait_for(asyncio.gather(*answers), 10) == [0, 2, 4, 6]
    await batcher.stop()


async def test_workers_share_no_batch_and_work_at_once(doubling: Doubling) -> None:
    batcher = await started(doubling, workers=2, longest_wait=0.01)
    doubling.gate.clear()
    answers = [asyncio.create_task(batcher.submit(i, soon())) for i in (1, 2)]
    await until(lambda: doubling.batches == [[1, 2]], 5, "the first is being worked on")
    answers += [asyncio.create_task(batcher.submit(i, soon())) for i in (3, 4)]
    await until(lambda: doubling.batches == [[1, 2], [3, 4]], 5, "so is the second")
    doubling.gate.set()
    assert await asyncio.gather(*answers) == [2, 4, 6, 8]
    await batcher.stop()


async def test_a_full_queue_refuses_at_once(doubling: Doubling) -> None:
    doubling.gate.clear()
    batcher = await started(doubling, queue=2, largest=1, longest_wait=0.0)
    working = asyncio.create_task(batcher.submit(0, soon()))
    await until(lambda: doubling.batches == [[0]], 5, "the first is being worked on")
    waiting = [asyncio.create_task(batcher.submit(i, soon())) for i in (1, 2)]
    await asyncio.sleep(0)
    begun = time.monotonic()
    with pytest.raises(Overloaded, match="back-off"):
        await batcher.submit(3, soon())
    assert time.monotonic() - begun < 0.1
    doubling.gate.set()
    assert await asyncio.gather(working, *waiting) == [0, 2, 4]
    await batcher.stop()


async def test_an_expired_deadline_is_refused_without_work(doubling: Doubling, batcher: MicroBatcher[int, int]) -> None:
    with pytest.raises(DeadlineExceeded, match="allow more time"):
        await batcher.submit(1, time.monotonic() - 0.001)
    assert doubling.batches == []


async def test_a_deadline_that_passes_in_the_queue_ends_without_work(doubling: Doubling) -> None:
    doubling.gate.clear()
    batcher = await started(doubling, largest=1, longest_wait=0.0)
    first = asyncio.create_task(batcher.submit(0, soon()))
    await until(lambda: doubling.batches == [[0]], 5, "the first is being worked on")
    deadline = soon(0.5)
    late = asyncio.create_task(batcher.submit(1, deadline))
    await until(lambda: time.monotonic() > deadline, 5, "the deadline has passed")
    doubling.gate.set()
    with pytest.raises(DeadlineExceeded):
        await late
    assert await first == 0
    assert doubling.batches == [[0]]
    await batcher.stop()


async def test_a_request_that_cannot_be_reached_before_its_deadline_is_refused_on_arrival(doubling: Doubling) -> None:
    batcher = await started(doubling, largest=1, longest_wait=0.0)
    batcher._batch_seconds = 1.0  # as after slow batches
    doubling.gate.clear()
    first = asyncio.create_task(batcher.submit(0, soon()))
    await until(lambda: doubling.batches == [[0]], 5, "the first is being worked on")
    with pytest.raises(Overloaded, match="longer than the deadline"):
        await batcher.submit(1, soon(0.5))
    patient = asyncio.create_task(batcher.submit(2, soon(30)))
    doubling.gate.set()
    assert [await first, await patient] == [0, 4]
    await batcher.stop()


async def test_a_batch_that_has_become_slow_counts_before_it_has_ended(doubling: Doubling) -> None:
    batcher = await started(doubling, largest=1, longest_wait=0.0)
    doubling.gate.clear()
    first = asyncio.create_task(batcher.submit(0, soon()))
    await until(lambda: doubling.batches == [[0]], 5, "the first is being worked on")
    batcher.admit(soon(60.0))
    since = time.monotonic()
    await until(lambda: time.monotonic() - since > 0.15, 5, "it has become slow")
    with pytest.raises(Overloaded, match="longer than the deadline"):
        batcher.admit(soon(0.2))
    doubling.gate.set()
    assert await first == 0
    await batcher.stop()


async def test_a_request_that_has_waited_too_long_is_refused(doubling: Doubling) -> None:
    doubling.gate.clear()
    batcher = await started(doubling, largest=1, longest_wait=0.0, oldest_age=0.02)
    first = asyncio.create_task(batcher.submit(0, soon()))
    await until(lambda: doubling.batches == [[0]], 5, "the first is being worked on")
    old, since = asyncio.create_task(batcher.submit(1, soon())), time.monotonic()
    await until(lambda: time.monotonic() - since > 0.05, 5, "it has become old")
    doubling.gate.set()
    with pytest.raises(Overloaded, match="too long"):
        await old
    assert await first == 0
    await batcher.stop()


async def test_work_whose_caller_has_gone_is_not_started(doubling: Doubling) -> None:
    doubling.gate.clear()
    batcher = await started(doubling, largest=2, longest_wait=0.0)
    first = asyncio.create_task(batcher.submit(0, soon()))
    await until(lambda: doubling.batches == [[0]], 5, "the first is being worked on")
    gone, stays = asyncio.create_task(batcher.submit(1, soon())), asyncio.create_task(batcher.submit(2, soon()))
    await asyncio.sleep(0)
    gone.cancel()
    doubling.gate.set()
    assert [await first, await stays] == [0, 4]
    assert doubling.batches == [[0], [2]]
    await batcher.stop()


async def test_one_that_fails_does_not_fail_those_who_share_its_batch(batcher: MicroBatcher[int, int]) -> None:
    answers = await asyncio.gather(*(batcher.submit(i, soon()) for i in (1, -1, 3)), return_exceptions=True)
    assert answers[0] == 2
    assert isinstance(answers[1], ValueError)
    assert answers[2] == 6
