"""Jobs wait for what does not answer, as streams do, but not for ever."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared import logs
from shared.errors import Unavailable

PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # seconds before what does not answer is asked again
T = TypeVar("T")
log = logs.get(__name__)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What the call gives; Unavailable is raised when it is so after all pauses."""
    for pause in PAUSES:
        try:
            return await call()
        except Unavailable as error:
            log.warning("no answer; asking again", error=str(error), pause_seconds=pause)
            await asyncio.sleep(pause)
    return await call()
