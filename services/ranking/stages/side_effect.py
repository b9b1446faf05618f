"""SideEffect: what was shown goes to the impressions topic. Never in a caller's way: bounded, and dropped when full."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

from services.ranking import metrics
from services.ranking.job import EXPLORED, NAME_OF_RUNG, PINNED, Job, Pick
from shared import events, logs, topics
from shared.errors import FinestreamError
from shared.events import Impression
from shared.pb.finestream.v1 import ranking_pb2

log = logs.get(__name__)
BATCH: Final = 500
GATHER_SECONDS: Final = 0.1  # a call of the broker costs more than all that it takes along


class Sender(Protocol):
    """What shared.kafka.Producer offers."""

    async def send_all(self, batch: list[tuple[str, events.Event]]) -> list[events.Source]: ...


class Impressions:
    def __init__(self, sender: Sender, buffer: int) -> None:
        self._sender = sender
        self._waiting: asyncio.Queue[Impression] = asyncio.Queue(buffer)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._send_for_ever())

    async def stop(self, seconds: float = 2.0) -> None:
        """Give what waits some time to leave, then stop."""
        if self._task is None:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._waiting.join(), seconds)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        metrics.IMPRESSIONS_DROPPED.inc(self._waiting.qsize())

    def offer(self, job: Job, model_version: str) -> None:
        """Note an answered job; returns at once."""
        if not job.picks:
            return
        impression = Impression(
            request_id=job.request_id,
            user_id=job.query.user_id,
            ts=time.time(),
            item_ids=job.item_ids,
            rung=NAME_OF_RUNG[job.rung],
            model_version=model_version,
            policy=job.policy,
            variant=job.variant,
            propensities=[pick.propensity for pick in job.picks] if job.policy else [],
            explored=_places(job.picks, EXPLORED),
            pinned=_places(job.picks, PINNED),
        )
        try:
            self._waiting.put_nowait(impression)
        except asyncio.QueueFull:
            metrics.IMPRESSIONS_DROPPED.inc()

    async def _send_for_ever(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            if self._waiting.qsize() < BATCH:
                await asyncio.sleep(GATHER_SECONDS)
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                await self._sender.send_all([(topics.IMPRESSIONS, impression) for impression in batch])
            except FinestreamError as error:
                metrics.IMPRESSIONS_DROPPED.inc(len(batch))
                log.warning("impressions were dropped", count=len(batch), error=str(error))
            finally:
                for _ in batch:
                    self._waiting.task_done()


def _places(picks: Sequence[Pick], placement: "ranking_pb2.Placement") -> list[int]:
    return [at for at, pick in enumerate(picks) if pick.placement == placement]
