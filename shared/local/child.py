"""One supervised process: started so that it dies with us, read line by line, stopped with a deadline."""

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from shared.processes import dying_with_us

TAIL_LINES: Final = 20
MAX_LINE_BYTES: Final = 64 * 1024
POLL_SECONDS: Final = 0.1

# gRPC's fork handlers run before the exec, in a copy of us without our other threads, and now and then abort it. We
# never fork without an exec. Read when the first channel is made.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

LineSink = Callable[[str, str], None]  # part's name, one line without its end
Probe = Callable[[], Awaitable[str]]  # "" when ready, else why not yet


@dataclass(frozen=True)
class Part:
    """What to run, how to see that it is ready, and how long it may take to start and to stop."""

    name: str
    command: Sequence[str]
    ready: Probe
    env: Mapping[str, str] = field(default_factory=dict)  # the child's whole environment
    niceness: int = 0
    # What the child gets when we die without stopping it. The embedded broker needs SIGTERM to save its data.
    death_signal: signal.Signals = signal.SIGKILL
    start_seconds: float = 90.0
    stop_seconds: float = 20.0


class PartFailed(Exception):
    """A part did not come up, or died; the message says which and why, and shows its last lines."""


class Child:
    """A running part."""

    def __init__(self, part: Part, process: asyncio.subprocess.Process, sink: LineSink) -> None:
        self.part = part
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process = process
        self._sink = sink
        self._pump = asyncio.create_task(self._pump_lines())

    @staticmethod
    async def spawn(part: Part, sink: LineSink) -> "Child":
        """Start the part. Raises PartFailed when its program cannot be run."""
        dying = dying_with_us(part.death_signal)

        def in_child() -> None:
            dying()
            if part.niceness:
                os.nice(part.niceness)

        try:
            process = await asyncio.create_subprocess_exec(
                *part.command, env=dict(part.env), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT, preexec_fn=in_child,
                # Ctrl-C reaches us alone, and we stop the parts in their order. Not a session: Linux shares the
                # processor between sessions first (autogroup), and niceness would then count for nothing.
                process_group=0,
            )  # fmt: skip
        except OSError as error:
            raise PartFailed(f"{part.name} cannot be started: {error}") from error
        return Child(part, process, sink)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    async def exited(self) -> int:
        """Wait for the end; what it started is ended too, and all output has been read, when this returns."""
        code = await self._process.wait()
        self.signal(signal.SIGKILL)  # an orphan of a crash would keep the pipe open for ever
        await asyncio.wait([self._pump])  # not `await`: a cancelled waiter must not end the reading
        return code

    async def until_ready(self) -> None:
        """Raises PartFailed when the part exits, or is not ready within its start_seconds."""
        deadline = time.monotonic() + self.part.start_seconds
        while reason := await self.part.ready():
            if self.exit_code is not None:
                await self.exited()
                raise PartFailed(self.obituary("while starting"))
            if time.monotonic() > deadline:
                raise PartFailed(
                    f"{self.part.name} is not ready after {self.part.start_seconds:g} s: {reason}{self._last_lines()}"
                )
            await asyncio.sleep(POLL_SECONDS)

    async def stop(self) -> str:
        """SIGTERM, wait, and after stop_seconds SIGKILL. Returns what went wrong, "" for a clean end."""
        if self.exit_code is None:
            self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.part.stop_seconds):
                code = await self.exited()
        except TimeoutError:
            await self.kill()
            return f"{self.part.name} did not stop within {self.part.stop_seconds:g} s and was killed"
        return "" if code in (0, -signal.SIGTERM) else self.obituary("while stopping")

    async def kill(self) -> None:
        """SIGKILL to the part and whatever it started."""
        self.signal(signal.SIGKILL)
        await self.exited()

    def signal(self, sign: signal.Signals) -> None:
        try:
            os.killpg(self.pid, sign)
        except ProcessLookupError:
            return  # it has ended already, which is what every caller wants or sees next

    def obituary(self, when: str) -> str:
        code = self.exit_code
        how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exited with {code}"
        return f"{self.part.name} {how} {when}{self._last_lines()}"

    def _last_lines(self) -> str:
        if not self.tail:
            return "; it wrote nothing"
        return "; its last lines:\n" + "\n".join(f"  {line}" for line in self.tail)

    async def _pump_lines(self) -> None:
        assert self._process.stdout is not None
        async for line in lines(self._process.stdout):
            self.tail.append(line)
            self._sink(self.part.name, line)


async def lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """The lines of a stream; one longer than MAX_LINE_BYTES is cut into several, so memory stays bounded."""
    held = b""
    while chunk := await stream.read(MAX_LINE_BYTES):
        *whole, held = (held + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace").rstrip("\r")
        if len(held) >= MAX_LINE_BYTES:
            yield held.decode("utf-8", "replace")
            held = b""
    if held:
        yield held.decode("utf-8", "replace")


def http_ready(url: str) -> Probe:
    """Ready when `url` answers 200; else its body says why not."""

    async def probe() -> str:
        timeout = aiohttp.ClientTimeout(total=2.0)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
                return "" if response.status == 200 else (await response.text())[:200] or f"status {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{url} does not answer ({type(error).__name__})"

    return probe


def port_ready(host: str, port: int) -> Probe:
    """Ready when the port takes a connection."""

    async def probe() -> str:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout=2.0)
        except (OSError, TimeoutError):
            return f"nothing listens on {host}:{port}"
        writer.close()
        return ""

    return probe
