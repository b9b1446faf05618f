"""The one inference thread. All torch work, and every change of what it reads, runs here, one job after another.

So nothing needs a lock: a change of the item table or of the model happens between two batches by construction,
and the event loop never computes.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

import torch

from shared.service import WrongSetting

P = ParamSpec("P")
R = TypeVar("R")
NICENESS: Final = 5


class Inference:
    def __init__(self, device: str = "cpu", threads: int = 1) -> None:
        self.device = device
        self._pool = ThreadPoolExecutor(1, "inference", initializer=_begin, initargs=(threads,))

    async def run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a job after those already given, without gradients."""

        def without_gradients() -> R:
            with torch.inference_mode():
                return job(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._pool, without_gradients)

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
    """bf16 halves what a GPU reads of the item table; a CPU has no fast path for it."""
    return torch.bfloat16 if device == "cuda" else torch.float32
