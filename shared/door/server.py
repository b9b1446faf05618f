"""The door itself: grpc's threaded server, which hands each call to the service and takes its answer from there.

Not grpc.aio: that one takes several times as long to refuse a call.
"""

import threading
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any, Final

import grpc
import msgspec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import SERVICE_NAME, ReflectionServicer
from prometheus_client.registry import Collector

from shared import errors, logs, metrics, rpc
from shared.access import HEALTH, Grant
from shared.door.frames import FAILED, OPENED, READY, STOP, TOLD, pack
from shared.door.line import Line
from shared.door.unwaited import Call, Places, Unwaited
from shared.rpc_edge import Port, service_of, status_of
from shared.service import WrongSetting
from shared.settings import GrpcSettings

log = logs.get(__name__)
TOLD_SECONDS: Final = 0.5
CODE_OF: Final = {code.value[0]: code for code in grpc.StatusCode}
OK: Final = grpc.StatusCode.OK.value[0]
COUNTED: Final = (metrics.RPC_REFUSED, metrics.TOKENS_FAILURES)


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What has happened at the door since it told the last time."""

    full: int  # calls that found no place
    counted: list[tuple[int, dict[str, str], float]]  # of COUNTED: which, its labels, how many more


class Opening(msgspec.Struct, frozen=True):
    """Which door is to be opened. `places`: calls at a time; one more is refused."""

    host: str
    port: int
    shared_port: bool
    places: int
    services: tuple[str, ...]
    methods: tuple[str, ...]  # /service/Method; the service knows each by its place here
    modules: tuple[str, ...]  # generated, by which reflection knows the services


class Door(Port):
    """`counted`: what is counted in this process and shown by the service.

    Raises WrongSetting where TLS or tokens cannot be read, or the port is taken.
    """

    def __init__(self, opening: Opening, options: GrpcSettings, line: Line, counted: Sequence[Collector]) -> None:
        super().__init__(rpc.access_of(options))
        for module in opening.modules:
            import_module(module)
        self._line = line
        self._counted = counted
        self._services = opening.services
        self._numbers = {method: number for number, method in enumerate(opening.methods)}
        self._health = HealthServicer()
        self._grace: float | None = None
        self._ended = threading.Event()
        self._told: dict[tuple[int, tuple[tuple[str, str], ...]], float] = {}
        self._pool = Places(opening.places)
        self._called = self._refused = 0  # calls of what is served, and those of them that found no place
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            ReflectionServicer([*opening.services, HEALTH, SERVICE_NAME]), self
        )
        self._server = grpc.server(
            self._pool, handlers=[self], options=rpc.server_options(options, opening.shared_port),
            maximum_concurrent_rpcs=opening.places,
        )  # fmt: skip
        self.port = rpc.bind(self._server, f"{opening.host}:{opening.port}", options)

    def run(self) -> None:
        """Serve until the service says stop, or has gone."""
        self._show(False)
        self._server.start()
        self._line.send(pack(OPENED, body=str(self.port).encode()))
        hearing = threading.Thread(target=self._hear, name="hear", daemon=True)
        hearing.start()
        file, poll = self._access.file, self._access.poll_seconds
        while not self._ended.wait(min(TOLD_SECONDS, poll)):
            if file is not None:
                file.look()
            self._tell()
        self._health.enter_graceful_shutdown()
        self._server.stop(self._grace).wait()
        if self._grace is not None:
            self._tell()
        self._line.close()
        hearing.join()

    def service(self, details: Any) -> Any:
        """What serves a call; None where nothing does. grpc asks before it looks whether there is a place."""
        method, grant = details.method, self.grant_of(details)
        try:
            grant.admit(service_of(method))
        except errors.FinestreamError as error:
            self._called += 1
            refuse = _refuse if method in self._numbers else _refuse_stream
            return grpc.stream_stream_rpc_method_handler(Unwaited(partial(refuse, error)))
        handler = grant.edged.get(method) or self._found(method, grant, details)
        if handler is not None:
            self._called += 1
            grant.edged[method] = handler
        return handler

    def _found(self, method: str, grant: Grant, details: Any) -> Any:
        number = self._numbers.get(method)
        if number is not None:
            return grpc.unary_unary_rpc_method_handler(Unwaited(partial(self._read, number, grant)))
        return self.added(details)

    def _read(self, number: int, grant: Grant, call: Call) -> None:
        call.read(partial(self._ask, number, grant, call))

    def _ask(self, number: int, grant: Grant, call: Call, message: bytes) -> None:
        try:
            grant.check_size(message)
            self._line.ask(number, message, call.time_remaining(), call.add_callback, partial(_end, call))
        except errors.FinestreamError as error:
            _refuse(error, call)

    def _hear(self) -> None:
        try:
            for kind, _, number, body in self._line.heard():
                if kind == READY:
                    self._show(bool(number))
                elif kind == STOP:
                    self._grace = float(body)
                    self._ended.set()
        except Exception:
            log.exception("what the service said was not understood")
        finally:
            self._ended.set()  # nobody else would answer the calls

    def _show(self, ready: bool) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._services):
            self._health.set(name, serving)

    def _tell(self) -> None:
        """Tell the service that we live, and what we have counted."""
        refused = max(self._refused, self._called - self._pool.taken)
        told = Told(refused - self._refused, self._more_counted())
        self._refused = refused
        self._line.send(pack(TOLD, body=msgspec.msgpack.encode(told)))

    def _more_counted(self) -> list[tuple[int, dict[str, str], float]]:
        more = []
        for which, counter in enumerate(self._counted):
            for sample in (s for family in counter.collect() for s in family.samples if s.name.endswith("_total")):
                key = (which, tuple(sorted(sample.labels.items())))
                if grown := sample.value - self._told.get(key, 0.0):
                    self._told[key] = sample.value
                    more.append((which, sample.labels, grown))
        return more


def serve(opening: Opening, options: GrpcSettings, line: Line, counted: Sequence[Collector] = COUNTED) -> None:
    """Open a door and serve until it is to end, or tell the service why it cannot be opened."""
    try:
        door = Door(opening, options, line, counted)
    except WrongSetting as error:
        line.send(pack(FAILED, body=str(error).encode()))
        line.close()
    else:
        door.run()


def _end(call: Call, status: int, body: bytes) -> None:
    if status == OK:
        call.answer(body)
    else:
        call.refuse(CODE_OF[status], body.decode())


def _refuse(error: errors.FinestreamError, call: Call) -> None:
    call.refuse(status_of(error), str(error))


def _refuse_stream(error: errors.FinestreamError, call: Call) -> None:
    """After its first message: a Python client whose stream ends before it could send one says INTERNAL."""
    call.read(lambda _: _refuse(error, call))
