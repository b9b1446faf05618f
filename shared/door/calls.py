"""The service's end: calls that its door hands in, answered in the event loop."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache, partial
from typing import Any, Final, cast

import grpc
import msgspec
from google.protobuf import descriptor_pool

from shared import errors, logs, metrics
from shared.door.frames import ANSWER, CALL, FAILED, GONE, OPENED, READY, STOP, TOLD, WHEN, Unpacker, pack
from shared.door.server import COUNTED, Opening, Told
from shared.rpc_edge import UNEXPECTED, parsed, status_of
from shared.service import Health, Heartbeat, WrongSetting
from shared.settings import ServiceSettings

log = logs.get(__name__)
OPEN_SECONDS: Final = 60.0  # for a door to open, on a machine that has much else to do
CLOSE_SECONDS: Final = 5.0  # for one that was told to stop, beyond the grace
SILENCE_SECONDS: Final = 30.0  # of a door that tells us twice a second
FOREVER_SECONDS: Final = 1e9  # grpc's server gives a call without a deadline more than that
Begin = Callable[[socket.socket, Opening], Callable[[], None]]  # starts a door; what it returns waits for its end
Full = Callable[[float], None]
Admit = Callable[["Call"], None]


class Call(msgspec.Struct, eq=False):
    """The context of a call, as a servicer's method takes it."""

    method: int
    message: bytes
    since: float
    deadline: float  # on time.monotonic's clock

    def time_remaining(self) -> float | None:
        """None where the client set no deadline, as in grpc.aio."""
        left = self.deadline - time.monotonic()
        return left if left < FOREVER_SECONDS else None


class Calls(asyncio.Protocol):
    """`full` hears how many calls found no place; `admit` may refuse one by raising before its message is parsed."""

    def __init__(self, methods: Mapping[str, Any], full: Full, admit: Admit | None) -> None:
        self._handlers = list(methods.values())
        self._seconds_of = [cache(partial(metrics.RPC_SECONDS.labels, method)) for method in methods]
        self._names = list(methods)
        self._full = full
        self._admit = admit
        self._unpacker = Unpacker()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._transport: asyncio.Transport | None = None
        self._leaving: list[bytes] = []
        self.heart: Heartbeat | None = None
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[int] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def send(self, frame: bytes) -> None:
        """With what else is sent in this turn of the event loop: each that leaves alone wakes the door."""
        if not self._leaving:
            self._loop.call_soon(self._leave)
        self._leaving.append(frame)

    def _leave(self) -> None:
        if self._transport is not None:
            self._transport.writelines(self._leaving)
        self._leaving = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for task in self._tasks.values():
            task.cancel()
        if not self.opened.done():
            self.opened.set_exception(errors.Unavailable("the door ended before it was open"))
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        for frame in self._unpacker.frames(data):
            self._take(*frame)

    def _take(self, kind: int, number: int, method: int, body: bytes) -> None:
        if kind == CALL:
            call = Call(method, body[WHEN.size :], *WHEN.unpack_from(body))
            self._tasks[number] = self._loop.create_task(self._answer(number, call))
        elif kind == GONE:
            if task := self._tasks.pop(number, None):
                task.cancel()
        elif kind == TOLD:
            self._count(msgspec.msgpack.decode(body, type=Told))
        elif kind == OPENED:
            self.opened.set_result(int(body))
        elif kind == FAILED:
            self.opened.set_exception(WrongSetting(body.decode()))

    def _count(self, told: Told) -> None:
        if self.heart:
            self.heart.beat()
        self._full(told.full)
        for which, labels, grown in told.counted:
            counter = COUNTED[which]
            (counter.labels(**labels) if labels else counter).inc(grown)

    async def _answer(self, number: int, call: Call) -> None:
        code, body = grpc.StatusCode.CANCELLED, b""
        try:
            code, body = await self._outcome(call)
            self.send(pack(ANSWER, number, code.value[0], body))
        finally:
            self._tasks.pop(number, None)
            self._seconds_of[call.method](code.name).observe(time.monotonic() - call.since)

    async def _outcome(self, call: Call) -> tuple[grpc.StatusCode, bytes]:
        """The answer's message, or the sentence of an error."""
        handler = self._handlers[call.method]
        try:
            if self._admit:
                self._admit(call)
            answer = await handler.unary_unary(parsed(call.message, handler.request_deserializer), call)
            return grpc.StatusCode.OK, handler.response_serializer(answer)
        except errors.FinestreamError as error:
            return status_of(error), str(error).encode()
        except Exception:
            log.exception("call failed", method=self._names[call.method])
            return grpc.StatusCode.INTERNAL, UNEXPECTED.encode()


class OpenDoor:
    def __init__(self, calls: Calls, port: int, end: Callable[[], None]) -> None:
        self._calls = calls
        self._end = end
        self.port = port

    async def lost(self) -> None:
        """Raises Unavailable when the door ends without having been told to."""
        await asyncio.shield(self._calls.closed)
        raise errors.Unavailable("the process of the gRPC port has ended")

    async def stop(self, grace_seconds: float) -> None:
        """Say NOT_SERVING, let calls in flight end within the grace, then close."""
        self._calls.send(pack(STOP, body=repr(grace_seconds).encode()))
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._calls.closed), grace_seconds + CLOSE_SECONDS)
        await asyncio.to_thread(self._end)


async def open_door(
    settings: ServiceSettings,
    name: str,
    register: Callable[[Any], None],
    health: Health,
    places: int,
    full: Full,
    admit: Admit | None = None,
    begin: Begin | None = None,
) -> OpenDoor:
    """Open a service's gRPC port as rpc.serve does, before it, and for unary methods only. Of more than `places` calls
    at a time the rest is refused, and `full` told of.

    Raises WrongSetting when the port is taken, or a TLS file or the file of tokens cannot be read.
    """
    registry = _Registry()
    register(registry)
    opening = Opening(
        settings.host, settings.port, settings.shared_port, places, tuple(registry.services), tuple(registry.methods),
        tuple(map(_module_of, registry.services)),
    )  # fmt: skip
    ours, theirs = socket.socketpair()
    end = begin(theirs, opening) if begin else _process(theirs, opening, settings.log_level)
    calls = Calls(registry.methods, full, admit)
    await asyncio.get_running_loop().create_connection(lambda: calls, sock=ours)
    port = await asyncio.wait_for(calls.opened, OPEN_SECONDS)
    calls.heart = health.watch("door", SILENCE_SECONDS)
    health.on_change(lambda ready: calls.send(pack(READY, number=ready)))
    log.info("gRPC port open", name=name, host=settings.host, port=port, tls=bool(settings.grpc.tls_certificate))
    return OpenDoor(calls, port, end)


def _module_of(service: str) -> str:
    """The generated module that describes it."""
    file: str = descriptor_pool.Default().FindServiceByName(service).file.name
    return f"shared.pb.{file.removesuffix('.proto').replace('/', '.')}_pb2"


class _Registry:
    """Takes what generated code would add to a server."""

    def __init__(self) -> None:
        self.services: list[str] = []
        self.methods: dict[str, Any] = {}  # /service/Method -> handler

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Generated code adds the same handlers in both ways."""

    def add_registered_method_handlers(self, service_name: str, handlers: Mapping[str, Any]) -> None:
        """Raises ValueError for a method with a stream."""
        streams = [
            name for name, handler in handlers.items() if handler.request_streaming or handler.response_streaming
        ]
        if streams:
            raise ValueError(f"a door takes no streams: {', '.join(streams)}")
        self.services.append(service_name)
        self.methods |= {f"/{service_name}/{name}": handler for name, handler in handlers.items()}


def _process(end: socket.socket, opening: Opening, log_level: str) -> Callable[[], None]:
    """Start the door; it ends when its socket does, which is also when we are killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "shared.door", str(end.fileno()), msgspec.json.encode(opening).decode(), log_level],
        pass_fds=[end.fileno()],
    )
    end.close()

    def ended() -> None:
        try:
            process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    return ended
