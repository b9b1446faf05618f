"""How many calls may be in flight: one more after every round of successes, half as many when the endpoint has enough.

A pause is for all: what is in flight ends, and nothing begins until it is over.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from services.extractor import metrics


class NoTurn(Exception):
    """A call cannot begin in time; `reason` is of the pause, or that too many were before it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Waiting:
    deadline: float
    turn: asyncio.Future[None]


class Limiter:
    """Between 1 and `most` calls at a time, first come, first served. Times are the running loop's."""

    def __init__(self, most: int) -> None:
        self.limit = most
        self.in_flight = 0
        self._most = most
        self._succeeded = 0  # of this round, since the limit last rose
        self._round = 0  # how often the limit was halved
        self._waiting: deque[_Waiting] = deque()
        self._resume: asyncio.TimerHandle | None = None
        self._reason = ""  # of the pause
        self._tell()

    async def enter(self, deadline: float) -> int:
        """A turn; `leave` must follow. Raises NoTurn as soon as it is sure that none comes before the deadline."""
        if self._resume is not None and self._resume.when() > deadline:
            raise NoTurn(self._reason)
        if self._waiting or not self._has_room:
            await self._turn(deadline)
        else:
            self.in_flight += 1
        self._tell()
        return self._round

    def leave(self) -> None:
        self.in_flight -= 1
        self._admit()

    def succeeded(self, turn: int) -> None:
        """What went out before the limit was halved says nothing about the limit of now."""
        self._succeeded += turn == self._round
        if self._succeeded >= self.limit < self._most:
            self.limit += 1
            self._succeeded = 0
            self._admit()

    def refused(self, turn: int, seconds: float, reason: str) -> None:
        """The endpoint has enough. Of calls that went out together, only the first one's refusal halves the limit."""
        if turn == self._round:
            self._round += 1
            self.limit = max(1, self.limit // 2)
            self._succeeded = 0
        self._pause(seconds, reason)
        self._tell()

    @property
    def _has_room(self) -> bool:
        return self._resume is None and self.in_flight < self.limit

    async def _turn(self, deadline: float) -> None:
        waiting = _Waiting(deadline, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout_at(deadline):
                await waiting.turn
        except BaseException as error:
            if waiting.turn.done() and not waiting.turn.cancelled() and waiting.turn.exception() is None:
                self.leave()  # it was given the turn and cancelled in the same moment
            if isinstance(error, TimeoutError):
                raise NoTurn("queued") from None
            raise

    def _pause(self, seconds: float, reason: str) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if self._resume is not None:
            if self._resume.when() >= until:
                return
            self._resume.cancel()
        self._resume, self._reason = loop.call_at(until, self._go_on), reason
        for waiting in self._waiting:
            if waiting.deadline < until and not waiting.turn.done():
                waiting.turn.set_exception(NoTurn(reason))

    def _go_on(self) -> None:
        self._resume = None
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._has_room:
            turn = self._waiting.popleft().turn
            if not turn.done():  # else it was cancelled, or told that its time is too short
                turn.set_result(None)
                self.in_flight += 1
        self._tell()

    def _tell(self) -> None:
        metrics.ALLOWED_CALLS.set(self.limit)
        metrics.OPEN_CALLS.set(self.in_flight)
