"""The system on one machine: which parts there are, where each listens, and where its data lies.

The services are the cluster's own entry points; only their addresses are set here. Whatever the operator has
set in the environment wins, so one part after the other can be moved off this machine.
"""

import os
import signal
import socket
import sys
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shared.local import broker
from shared.local.child import Part, http_ready, port_ready
from shared.settings import EMBEDDED_KAFKA

HOST: Final = "127.0.0.1"
BROKER: Final = "broker"
_BOOTSTRAP: Final = "FINESTREAM_KAFKA_BOOTSTRAP"


@dataclass(frozen=True)
class Service:
    """A service of the cluster, with its default ports; no gRPC port where it has none."""

    name: str
    metrics_port: int
    port: int | None = None
    niceness: int = 0
    start_seconds: float = 90.0

    @property
    def prefix(self) -> str:
        return f"FINESTREAM_{self.name.upper()}_"


# In the order of the data flow: started in this order, stopped in the reverse.
SERVICES: Final = (
    Service("gateway", 9101, 50051),
    Service("extractor", 9102, 50052, niceness=10, start_seconds=180.0),  # the batch stage: it yields to the rest
    Service("graph_updater", 9103, 50053),
    Service("archiver", 9104),
    Service("ranking", 9105, 50054),
)
TRAINER: Final = "trainer"
# One process a core is already one a service: BLAS and OpenMP pools on top would only fight each other.
THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
TRAINER_THREADS: Final = 2


@dataclass(frozen=True)
class Ports:
    """Where each part listens: the broker's port, and by service name the gRPC and the metrics ports."""

    broker: int
    grpc: Mapping[str, int]
    metrics: Mapping[str, int]

    @staticmethod
    def default() -> "Ports":
        return Ports(
            int(EMBEDDED_KAFKA.rpartition(":")[2]),
            {s.name: s.port for s in SERVICES if s.port is not None},
            {s.name: s.metrics_port for s in SERVICES},
        )

    @staticmethod
    def free() -> "Ports":
        """Ports that nothing uses now. Another program may take one before we do; the part then says so."""
        with ExitStack() as held:
            return Ports(
                _free_port(held),
                {s.name: _free_port(held) for s in SERVICES if s.port is not None},
                {s.name: _free_port(held) for s in SERVICES},
            )

    def address(self, service: str) -> str:
        return f"{HOST}:{self.grpc[service]}"

    def metrics_url(self, service: str, path: str = "/metrics") -> str:
        return f"http://{HOST}:{self.metrics[service]}{path}"


@dataclass(frozen=True)
class Layout:
    """One system: its folder, its ports, and the environment that its parts and its clients share."""

    data: Path
    ports: Ports
    env: Mapping[str, str]
    embedded_broker: bool

    def stages(self) -> list[list[Part]]:
        """What to supervise, in the order of the start."""
        services = [self._service(service) for service in SERVICES]
        return [[self._broker()], services] if self.embedded_broker else [services]

    def trainer_command(self) -> list[str]:
        return [sys.executable, "-m", f"services.{TRAINER}.main"]

    def trainer_env(self) -> dict[str, str]:
        return {**self.env, **{name: os.environ.get(name, str(TRAINER_THREADS)) for name in THREADS}}

    def _broker(self) -> Part:
        return Part(
            BROKER, broker.command(self.data / "broker", self.ports.broker), port_ready(HOST, self.ports.broker),
            env=dict(os.environ), death_signal=signal.SIGTERM, start_seconds=30.0,
        )  # fmt: skip

    def _service(self, service: Service) -> Part:
        return Part(
            service.name,
            [sys.executable, "-m", f"services.{service.name}.main"],
            http_ready(self.ports.metrics_url(service.name, "/readyz")),
            env=self.env,
            niceness=service.niceness,
            start_seconds=service.start_seconds,
        )


def local(data: Path, ports: Ports, environment: Mapping[str, str] | None = None) -> Layout:
    """The layout under `data`. What `environment` (default: ours) already sets is kept, ports included.

    Raises ValueError when a port in the environment is no number.
    """
    given = dict(os.environ if environment is None else environment)
    ports = _overridden(ports, given)
    return Layout(data.resolve(), ports, {**_addresses(data.resolve(), ports), **given}, _BOOTSTRAP not in given)


def isolated(data: Path, environment: Mapping[str, str] | None = None) -> Layout:
    """A system of its own beside whatever runs: free ports, only `data`; its own names on a given Kafka or Qdrant."""
    given = dict(os.environ if environment is None else environment)
    ports = Ports.free()
    for name in _addresses(data, ports).keys() - {_BOOTSTRAP, *THREADS}:
        given.pop(name, None)
    own = f"demo-{uuid.uuid4().hex[:8]}-"
    if _BOOTSTRAP in given:
        given["FINESTREAM_KAFKA_TOPIC_PREFIX"] = own
    if "FINESTREAM_QDRANT_URL" in given:
        given["FINESTREAM_QDRANT_COLLECTION_PREFIX"] = own
    return local(data, ports, given)


def _addresses(data: Path, ports: Ports) -> dict[str, str]:
    env = {
        _BOOTSTRAP: f"{HOST}:{ports.broker}",
        "FINESTREAM_ARCHIVE_URL": str(data / "archive"),
        "FINESTREAM_BUNDLES_URL": str(data / "bundles"),
        "FINESTREAM_QDRANT_PATH": str(data / "qdrant"),
        "FINESTREAM_EXTRACTOR_STATE": str(data / "extractor"),
        "FINESTREAM_RANKING_BUNDLE_CACHE": str(data / "bundle-cache"),
        "FINESTREAM_GRAPH_ADDRESS": ports.address("graph_updater"),
        "FINESTREAM_GATEWAY_ADDRESS": ports.address("gateway"),
        "FINESTREAM_RANKING_ADDRESS": ports.address("ranking"),
        "TOKENIZERS_PARALLELISM": "false",
        **dict.fromkeys(THREADS, "1"),
    }
    for service in SERVICES:
        env[service.prefix + "METRICS_PORT"] = str(ports.metrics[service.name])
        if service.port is not None:
            env[service.prefix + "PORT"] = str(ports.grpc[service.name])
    return env


def _overridden(ports: Ports, given: Mapping[str, str]) -> Ports:
    prefixes = {service.name: service.prefix for service in SERVICES}
    return replace(
        ports,
        grpc={name: int(given.get(prefixes[name] + "PORT", port)) for name, port in ports.grpc.items()},
        metrics={name: int(given.get(prefixes[name] + "METRICS_PORT", port)) for name, port in ports.metrics.items()},
    )


def _free_port(held: ExitStack) -> int:
    taken = held.enter_context(socket.socket())
    taken.bind((HOST, 0))
    return int(taken.getsockname()[1])
