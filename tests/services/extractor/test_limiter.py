"""services/extractor/limiter.py: never more than the limit, never fewer than one, and back up again."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.extractor.limiter import Limiter, NoTurn

MOST = 8
SOON = 60.0  # seconds, of tests that wait for nothing


def soon() -> float:
    return asyncio.get_running_loop().time() + SOON


async def settle() -> None:
    """Whatever can go on now has gone on."""
    for _ in range(5):
        await asyncio.sleep(0)


class Load:
    """Calls that end when they are told to."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.running: list[tuple[int, asyncio.Future[None]]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.tasks.append(asyncio.create_task(self._call()))

    async def _call(self) -> None:
        turn = await self.limiter.enter(soon())
        assert self.limiter.in_flight <= self.limiter.limit, "admitted over the limit"
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running.append((turn, ended))
        try:
            await ended
        finally:
            self.running.remove((turn, ended))
            self.limiter.leave()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def in_a_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await test()

    asyncio.run(run())


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["start", "succeed", "refuse", "fail", "cancel"]), st.integers(0, 20)), max_size=80
    )
)
def test_never_over_the_limit_never_under_one_and_no_turn_is_lost(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        limiter = Limiter(MOST)
        load = Load(limiter)
        for step, which in steps:
            if step == "start":
                load.start()
            elif step == "cancel" and load.tasks:
                load.tasks[which % len(load.tasks)].cancel()
            elif load.running:
                turn, ended = load.running[which % len(load.running)]
                if step == "succeed":
                    limiter.succeeded(turn)
                elif step == "refuse":
                    limiter.refused(turn, 0.0, "rate_limited")
                if not ended.done():
                    ended.set_result(None)
            if which % 2:  # else the next step comes in the same moment
                await settle()
            assert 1 <= limiter.limit <= MOST
        async with asyncio.timeout(SOON):  # no pause is longer than a moment
            while not all(task.done() for task in load.tasks):
                for _, ended in load.running:
                    if not ended.done():
                        ended.set_result(None)
                await asyncio.sleep(0)
        assert limiter.in_flight == 0
        await load.stop()

    in_a_loop(run)


@given(st.integers(1, 64), st.integers(1, 10))
def test_it_recovers_one_more_after_each_full_round_of_successes(most: int, refusals: int) -> None:
    async def run() -> None:
        limiter = Limiter(most)
        for _ in range(refusals):
            limiter.refused(await limiter_turn(limiter), 0.0, "rate_limited")
            await settle()
        assert limiter.limit == max(1, most // 2**refusals)
        while limiter.limit < most:
            before = limiter.limit
            for _ in range(before):
                assert limiter.limit == before
                limiter.succeeded(refusals)
            assert limiter.limit == before + 1
        limiter.succeeded(refusals)
        assert limiter.limit == most

    in_a_loop(run)


async def limiter_turn(limiter: Limiter) -> int:
    turn = await limiter.enter(soon())
    limiter.leave()
    return turn


async def test_refusals_of_calls_that_went_out_together_halve_once() -> None:
    limiter = Limiter(MOST)
    turns = [await limiter.enter(soon()) for _ in range(MOST)]
    for turn in turns:
        limiter.refused(turn, 0.0, "rate_limited")
        limiter.leave()
    assert limiter.limit == MOST // 2
    limiter.refused(await limiter_turn(limiter), 0.0, "rate_limited")
    assert limiter.limit == MOST // 4


async def test_a_pause_is_for_all_and_the_longest_counts() -> None:
    clock = asyncio.get_running_loop().time
    limiter = Limiter(MOST)
    turn = await limiter_turn(limiter)
    began = clock()
    limiter.refused(turn, 0.1, "rate_limited")
    limiter.refused(turn, 0.01, "rate_limited")
    await asyncio.gather(*(limiter_turn(limiter) for _ in range(3)))
    assert clock() - began >= 0.1


async def test_who_has_no_time_for_the_pause_is_told_at_once() -> None:
    clock = asyncio.get_running_loop().time
    limiter = Limiter(1)
    turn = await limiter.enter(soon())
    queued = asyncio.create_task(limiter.enter(soon()))
    await settle()
    limiter.refused(turn, 2 * SOON, "insufficient_quota")
    with pytest.raises(NoTurn, match="insufficient_quota"):
        await queued
    with pytest.raises(NoTurn, match="insufficient_quota"):
        await limiter.enter(clock() + SOON)


async def test_who_waits_too_long_for_a_turn_is_told_so_and_the_next_gets_it() -> None:
    limiter = Limiter(1)
    await limiter.enter(soon())
    with pytest.raises(NoTurn, match="queued"):
        await limiter.enter(asyncio.get_running_loop().time() + 0.01)
    queued = asyncio.create_task(limiter.enter(soon()))
    await settle()
    limiter.leave()
    await queued
    assert limiter.in_flight == 1
