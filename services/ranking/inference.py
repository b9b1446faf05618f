"""The one inference thread. All torch work, and every change of what it reads, runs here, one job after another.

So nothing needs a lock: a change of the item table or of the model happens between two batches by construction,
and the event loop never computes.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Final, ParamSpec, TypeVar

import torch

from shared.service import WrongSetting

P = ParamSpec("P")
R = TypeVar("R")
NICENESS: Final = 5
PATIENCE_SECONDS: Final = 0.05


class Inference:
    """`patience`: seconds that a job between others waits for them."""

    def __init__(self, device: str = "cpu", threads: int = 1, patience: float = PATIENCE_SECONDS) -> None:
        self.device = device
        self._pool = ThreadPoolExecutor(1, "inference", initializer=_begin, initargs=(threads,))
        self._patience = patience
        self._given = 0  # jobs that have not ended
        self._idle = asyncio.Event()
        self._idle.set()
        self._between = asyncio.Lock()

    async def run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a job after those already given, without gradients."""

        def without_gradients() -> R:
            with torch.inference_mode():
                return job(*args, **kwargs)

        self._given += 1
        self._idle.clear()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, without_gradients)
        finally:
            self._given -= 1
            if not self._given:
                self._idle.set()

    @asynccontextmanager
    async def between(self) -> AsyncIterator[None]:
        """Begins when no job is left, or patience is: for jobs that nobody waits for, so that rankings do not wait for
        them, and that have their turn all the same where there is always a ranking.
        """
        async with self._between:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), self._patience)
            yield

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    # Where both want a core, the event loop has it: what it refuses costs it little, and what it is late for is lost.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def device_of(setting: str) -> str:
    """auto, cpu or cuda -> cpu or cuda. Raises WrongSetting where cuda is asked for and there is none."""
    if setting == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if setting == "cuda" and not torch.cuda.is_available():
        raise WrongSetting("FINESTREAM_RANKING_DEVICE is cuda but torch sees no GPU; set it to auto or cpu")
    return setting


def scoring_dtype(device: str) -> torch.dtype:
    """bf16 halves what a GPU reads of the item table; on a CPU bounds (codes.py) spare most of the reading."""
    return torch.bfloat16 if device == "cuda" else torch.float32
