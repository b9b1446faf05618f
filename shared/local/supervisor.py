"""Runs the parts of the system as processes: start in stages, wait for readiness, watch, stop in reverse.

Nothing is started again in silence: the first part that dies ends `failed()`, and the owner stops the rest.
"""

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from types import TracebackType

from shared.local.child import Child, LineSink, Part, PartFailed


class Supervisor:
    """Owns one process a part. Parts of one stage start side by side, stages one after the other."""

    def __init__(self, stages: Sequence[Sequence[Part]], sink: LineSink) -> None:
        self._stages = stages
        self._sink = sink
        self._children: dict[str, Child] = {}  # in the order of the start, which is that of the data flow
        self._restarting: set[str] = set()
        self._changed = asyncio.Event()  # who is watched has changed

    async def __aenter__(self) -> "Supervisor":
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start every part and wait until all are ready. Raises PartFailed for the first that is not."""
        for stage in self._stages:
            for part in stage:
                if not await part.ready():  # else we would wait on another system, and use it
                    raise PartFailed(f"{part.name} cannot be started: another process already answers in its place")
                self._children[part.name] = await Child.spawn(part, self._sink)
            await self._until_ready([self._children[part.name] for part in stage])

    async def failed(self) -> PartFailed:
        """Wait until a part ends by itself; what happened."""
        while True:
            self._changed.clear()
            watched = [child for name, child in self._children.items() if name not in self._restarting]
            await _any_of(self._changed.wait(), *(child.exited() for child in watched))
            for child in watched:
                name = child.part.name
                if child.exit_code is not None and self._children.get(name) is child and name not in self._restarting:
                    return PartFailed(child.obituary("while running"))

    async def stop(self) -> list[str]:
        """Stop every part, the last one of the data flow first. Returns what did not end cleanly."""
        problems = []
        while self._children:
            name = next(reversed(self._children))
            problems.append(await self._children[name].stop())
            del self._children[name]
        self._changed.set()
        return [problem for problem in problems if problem]

    def kill_all(self) -> None:
        """SIGKILL everything, for an operator who will not wait; stop() still collects what is left."""
        for child in self._children.values():
            child.signal(signal.SIGKILL)

    async def restart(self, name: str, *, kill: bool = True) -> None:
        """End one part and start it again: by SIGKILL, as a crash looks to the cluster, or cleanly."""
        part = self._children[name].part
        self._restarting.add(name)
        self._changed.set()
        try:
            problem = await (self._children[name].kill() if kill else self._children[name].stop())
            if problem:
                raise PartFailed(problem)
            self._children[name] = await Child.spawn(part, self._sink)
        finally:
            self._restarting.discard(name)
            self._changed.set()
        await self._children[name].until_ready()

    def pid(self, name: str) -> int:
        return self._children[name].pid

    async def _until_ready(self, children: list[Child]) -> None:
        waiting = [asyncio.create_task(child.until_ready()) for child in children]
        try:
            await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def _any_of(*awaitables: Coroutine[None, None, object]) -> None:
    tasks = [asyncio.create_task(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
