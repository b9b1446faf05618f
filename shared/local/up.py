"""`finestream up`: the whole system in the foreground, until Ctrl-C, SIGTERM, or the end of any part."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from shared.local import broker
from shared.local.child import PartFailed
from shared.local.layout import BROKER, SERVICES, Layout
from shared.local.loglines import Sink
from shared.local.supervisor import Supervisor

# What a client needs where the ports are not the default ones.
CLIENT_VARIABLES = (
    "FINESTREAM_KAFKA_BOOTSTRAP", "FINESTREAM_GATEWAY_ADDRESS", "FINESTREAM_RANKING_ADDRESS",
    "FINESTREAM_GRAPH_ADDRESS",
)  # fmt: skip


async def run(layout: Layout, sink: Sink, say: Callable[[str], None]) -> int:
    """Run until told to stop. Returns the exit code: 0 after a clean stop, 1 when a part failed."""
    layout.data.mkdir(parents=True, exist_ok=True)
    if layout.embedded_broker:
        broker.warn_not_durable(layout.data / BROKER, layout.ports.broker)
    supervisor = Supervisor(layout.stages(), sink)
    told = _Told(supervisor, say)
    failure: PartFailed | None = None
    try:
        if await _first(supervisor.start(), told.once.wait()):
            say(welcome(layout))
            failure = await _failure_before(supervisor, told)
    except PartFailed as error:
        failure = error
    if failure is not None:
        say(f"finestream: {failure}")
    say("stopping")
    problems = await supervisor.stop()
    for problem in problems:
        say(f"finestream: {problem}")
    told.forget()
    return 1 if failure is not None or problems else 0


def welcome(layout: Layout) -> str:
    """What the operator can do now."""
    lines = [f"ready: data in {layout.data}; stop with Ctrl-C"]
    for service in SERVICES:
        grpc = f"gRPC {layout.ports.address(service.name)}, " if service.port is not None else ""
        lines.append(f"  {service.name:<14}{grpc}metrics {layout.ports.metrics_url(service.name)}")
    addresses = " ".join(f"{name}={layout.env[name]}" for name in CLIENT_VARIABLES)
    return "\n".join([*lines, f"clients find it by: {addresses}"])


class _Told:
    """The first signal stops the system in order, the second one kills it."""

    def __init__(self, supervisor: Supervisor, say: Callable[[str], None]) -> None:
        self.once = asyncio.Event()
        self._supervisor = supervisor
        self._say = say
        for sign in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(sign, self._signalled)

    def forget(self) -> None:
        for sign in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(sign)

    def _signalled(self) -> None:
        if self.once.is_set():
            self._say("told again: killing everything")
            self._supervisor.kill_all()
        self.once.set()


async def _failure_before(supervisor: Supervisor, told: _Told) -> PartFailed | None:
    failed = asyncio.create_task(supervisor.failed())
    if await _first(_wait(failed), told.once.wait()):
        return failed.result()
    failed.cancel()
    return None


async def _wait(task: "asyncio.Task[PartFailed]") -> None:
    await asyncio.wait([task])


async def _first(work: Coroutine[Any, Any, object], other: Coroutine[Any, Any, object]) -> bool:
    """Whether `work` ended before `other`; the one that did not is cancelled. Raises what `work` raises."""
    tasks = [asyncio.create_task(work), asyncio.create_task(other)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    if tasks[0].cancelled():
        return False
    tasks[0].result()
    return True
