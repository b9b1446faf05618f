"""The one thread that spaCy and torch work in, so that the event loop only waits."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class Worker:
    def __init__(self, torch_threads: int = 1) -> None:
        # torch keeps the number of threads per calling thread, so it is set in this one.
        self._pool = ThreadPoolExecutor(1, "extractor-worker", torch.set_num_threads, (torch_threads,))

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do the work in the thread, after what was asked before."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))

    def stop(self) -> None:
        """Waits for the work at hand; what has not begun is dropped."""
        self._pool.shutdown(cancel_futures=True)
