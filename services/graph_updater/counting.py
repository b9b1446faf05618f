"""Keeps the gauge of nodes."""

import asyncio
from typing import Final

from services.graph_updater import metrics
from services.graph_updater.store import KINDS, Store
from shared.errors import Unavailable

EVERY_SECONDS: Final = 10.0


async def count_for_ever(store: Store) -> None:
    """Ends when cancelled."""
    while True:
        for kind in KINDS:
            try:
                metrics.NODES.labels(kind).set(await store.count(kind))
            except Unavailable:
                metrics.NODES.labels(kind).set(float("nan"))  # unknown is not zero, and not the last value
        await asyncio.sleep(EVERY_SECONDS)
