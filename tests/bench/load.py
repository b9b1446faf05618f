"""Load on a gRPC method: as much as it takes, or a rate whether answers come or not.

Latencies of a rate are counted from when a call was due, not from when it was sent: a server that stands still also
delays the calls that a waiting client would not have sent (coordinated omission, Tene, "How NOT to Measure Latency").
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from tests.bench.http2 import OK, OVERLOADED, Connection

CONNECTIONS: Final = 4
DRAIN_SECONDS: Final = 5.0
SHORTEST_SLEEP: Final = 0.001  # what an event loop's timer can tell


@dataclass(frozen=True)
class Target:
    """`requests` are sent in turn; `timeout` as gRPC writes it."""

    address: str
    method: str
    requests: Sequence[bytes]
    timeout: str = "10S"


@dataclass
class Answers:
    """When each call was due and how long it took from there, in seconds, by its grpc-status."""

    seconds: float = 0.0  # how long calls were made
    took: dict[str, list[float]] = field(default_factory=dict)
    sent: int = 0
    in_time: int = 0  # good answers that came while calls were made
    largest: int = 0  # calls open at once
    answer: bytes = b""  # the last message

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.in_time / self.seconds

    def milliseconds(self, quantile: float, status: str = OK) -> float:
        """Infinite where no call ended like this."""
        found = self.took.get(status)
        return 1e3 * float(np.quantile(found, quantile)) if found else float("inf")

    def statuses(self) -> dict[str, int]:
        return {status: len(found) for status, found in self.took.items()}

    @property
    def neither(self) -> int:
        """Calls that were neither answered nor refused for overload."""
        return self.sent - sum(len(self.took.get(status, ())) for status in (OK, OVERLOADED))


class _Load:
    def __init__(self, target: Target) -> None:
        self._target = target
        self._connections: list[Connection] = []
        self.open = 0
        self.answers = Answers()

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        host, port = self._target.address.rsplit(":", 1)
        for _ in range(CONNECTIONS):
            _, connection = await loop.create_connection(
                lambda: Connection(self._target.method, self._target.timeout), host, int(port)
            )
            self._connections.append(connection)

    def send(self, due: float) -> None:
        answers = self.answers
        request = self._target.requests[answers.sent % len(self._target.requests)]
        connection = self._connections[answers.sent % CONNECTIONS]
        answers.sent += 1
        self.open += 1
        answers.largest = max(answers.largest, self.open)
        connection.call(request, lambda status: self._note(status, due))

    def _note(self, status: str, due: float) -> None:
        self.open -= 1
        self.answers.took.setdefault(status, []).append(time.perf_counter() - due)

    async def end(self, started: float) -> Answers:
        """Count, wait for what is still open, and close."""
        now = time.perf_counter()
        self.answers.seconds, self.answers.in_time = now - started, len(self.answers.took.get(OK, ()))
        deadline = now + DRAIN_SECONDS
        while self.open and time.perf_counter() < deadline:
            await asyncio.sleep(SHORTEST_SLEEP)
        self.answers.answer = self._connections[0].answer
        for connection in self._connections:
            connection.close()
        return self.answers


async def saturating(target: Target, open_at_once: int, seconds: float) -> Answers:
    """As many calls as are answered: the next is sent when one has ended, so many are open all the time."""
    load = _Load(target)
    await load.connect()
    started = time.perf_counter()
    while (now := time.perf_counter()) < started + seconds:
        while load.open < open_at_once:
            load.send(now)
        await asyncio.sleep(SHORTEST_SLEEP)
    return await load.end(started)


async def steady(target: Target, rate: float, seconds: float, seed: int = 0) -> Answers:
    """Calls a second at random moments (a Poisson process), whatever comes back."""
    load, chance = _Load(target), random.Random(seed)
    await load.connect()
    started = time.perf_counter()
    due = started + chance.expovariate(rate)
    while due < started + seconds:
        while due <= time.perf_counter() and due < started + seconds:
            load.send(due)
            due += chance.expovariate(rate)
        await asyncio.sleep(max(SHORTEST_SLEEP, due - time.perf_counter()))
    return await load.end(started)
