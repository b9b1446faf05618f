"""Calls to the endpoint: bounded in flight, tried again where that helps, and never sooner than the endpoint asks."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import openai

from services.extractor import metrics
from services.extractor.limiter import Limiter, NoTurn
from services.extractor.openai_api import Trouble, trouble_of
from services.extractor.settings import OpenAISettings
from shared import logs
from shared.errors import Unavailable

R = TypeVar("R")
FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_DELAY_SECONDS: Final = 20.0
LONGEST_PAUSE_SECONDS: Final = 300.0  # whatever the endpoint asks; also when there is no money left, before a new look
log = logs.get(__name__)


class Calls:
    """Shared by all who call one endpoint: its limits are of the account, not of one caller."""

    def __init__(self, settings: OpenAISettings) -> None:
        self._settings = settings
        self._limiter = Limiter(settings.concurrency)

    async def __call__(self, request: Callable[[], Awaitable[R]], *, again: bool = True) -> R:
        """Raises NothingUsable where this request will never succeed, Unavailable where it may succeed later.

        `again`: whether to try again; not what would be done twice where only the answer was lost. No try begins after
        `total_seconds`. A try that failed gives its place to another call while it waits.
        """
        clock = asyncio.get_running_loop().time
        deadline, tried = clock() + self._settings.total_seconds, 0
        while True:
            tried += 1
            delay = back_off(tried)
            answer = await self._tried(request, deadline, delay)
            if not isinstance(answer, Trouble):
                return answer
            pause = _pause(answer, delay)
            if not (again and answer.passes_soon) or tried > self._settings.max_retries or clock() + pause > deadline:
                raise _unavailable(answer.reason)
            metrics.RETRIES.labels(answer.reason).inc()
            await asyncio.sleep(pause)

    async def _tried(self, request: Callable[[], Awaitable[R]], deadline: float, delay: float) -> R | Trouble:
        """The answer, or why there is none. `delay`: what is waited where the endpoint does not say how long."""
        try:
            turn = await self._limiter.enter(deadline)
        except NoTurn as error:
            raise _unavailable(error.reason) from None
        try:
            answer = await self._answered(request)
            if not isinstance(answer, Trouble):
                self._limiter.succeeded(turn)
            elif answer.reason == "rate_limited":
                self._limiter.refused(turn, _pause(answer, delay), answer.reason)
            elif answer.reason == "insufficient_quota":
                self._limiter.refused(turn, LONGEST_PAUSE_SECONDS, answer.reason)
            return answer
        finally:
            self._limiter.leave()

    async def _answered(self, request: Callable[[], Awaitable[R]]) -> R | Trouble:
        try:
            return await request()
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            trouble = trouble_of(error)
            if trouble.reason == "misconfigured":
                log.error("the endpoint does not accept our key or model", status=getattr(error, "status_code", None))
            return trouble


def back_off(tried: int) -> float:
    """Seconds before the next try: doubling up to a bound, with jitter so that calls spread."""
    longest = min(FIRST_DELAY_SECONDS * 2.0 ** min(tried - 1, 10), LONGEST_DELAY_SECONDS)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret


def _pause(trouble: Trouble, delay: float) -> float:
    return min(trouble.asked_seconds or delay, LONGEST_PAUSE_SECONDS)


def _unavailable(reason: str) -> Unavailable:
    metrics.FAILURES.labels(reason).inc()
    return Unavailable(f"the language model's endpoint does not answer: {reason}")
