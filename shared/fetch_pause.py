"""A pause after an empty fetch, for brokers that do not hold one back.

Kafka answers a fetch that finds nothing only after fetch_max_wait_ms. The embedded broker answers at once, so every
consumer would ask some 1,500 times a second: measured, an idle system then keeps two cores busy. aiokafka has no
setting for it, so its private `Fetcher._proc_fetch_request` is wrapped, here and nowhere else (a test fails when
upstream changes it). With Kafka itself the wrapper never pauses. FETCH_PAUSE_SECONDS = 0 switches it off.
"""

import asyncio
import time
from typing import Any, Final

from aiokafka.consumer.fetcher import Fetcher

FETCH_PAUSE_SECONDS: Final = 0.02  # what an event may wait for at most on top
_original: Final = Fetcher._proc_fetch_request


async def _paced(self: Any, assignment: Any, node_id: Any, request: Any) -> bool:
    started = time.monotonic()
    has_records: bool = await _original(self, assignment, node_id, request)
    pause = started + FETCH_PAUSE_SECONDS - time.monotonic()
    if not has_records and pause > 0:
        try:
            await asyncio.sleep(pause)
        except asyncio.CancelledError:  # closed, or the assignment is lost: the original ends so too
            return False
    return has_records


def install() -> None:
    """Pace every consumer of this process; calling it again changes nothing."""
    Fetcher._proc_fetch_request = _paced
