"""What every service's main has in common: settings, logs, metrics, health, signals, exit codes.

A main composes: `run("gateway", GatewaySettings, compose)`. `compose(runtime)` starts the parts, calls
`runtime.health.ready()` when warm, waits for `runtime.stopping`, and stops the parts in reverse.
Exit codes: 0 stopped cleanly, 1 a defect or a lost part, 2 a wrong setting (one line on stderr).
"""

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Generic, TypeVar

import uvloop
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from shared import logs, metrics, space
from shared.settings import ServiceSettings, SpaceSettings, masked, read
from shared.space import Space

SWITCH_SECONDS = 0.0005
COLLECTED_AFTER = 10_000  # new objects that may hold cycles: a batch of events makes thousands that hold none
S = TypeVar("S", bound=ServiceSettings)
log = logs.get(__name__)


class WrongSetting(Exception):
    """A setting that only shows to be wrong while composing; the message is one line for the operator."""


def space_of(settings: SpaceSettings) -> Space:
    """Raises WrongSetting."""
    try:
        return space.load(settings.name, settings.root)
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise WrongSetting(f"FINESTREAM_SPACE_NAME={settings.name}: {error}") from None


class Heartbeat:
    """Says that some work goes on. `beat()` whenever a step of it is done."""

    def __init__(self, max_silence_seconds: float) -> None:
        self._max = max_silence_seconds
        self._last = time.monotonic()

    def beat(self) -> None:
        self._last = time.monotonic()

    @property
    def alive(self) -> bool:
        return time.monotonic() - self._last <= self._max


class Health:
    """Readiness (may work be sent here?) and liveness (does the work go on?)."""

    def __init__(self) -> None:
        self._ready = False
        self._reason = "starting"
        self._beats: dict[str, Heartbeat] = {}
        self._listeners: list[Callable[[bool], None]] = []

    @property
    def is_ready(self) -> bool:
        return self._ready

    @property
    def reason(self) -> str:
        return self._reason

    def ready(self) -> None:
        self._set(True, "")

    def not_ready(self, reason: str) -> None:
        self._set(False, reason)

    def on_change(self, listener: Callable[[bool], None]) -> None:
        """Call `listener(ready)` now and at every change."""
        self._listeners.append(listener)
        listener(self._ready)

    def watch(self, name: str, max_silence_seconds: float) -> Heartbeat:
        """Fail /livez when this work is silent for longer."""
        self._beats[name] = Heartbeat(max_silence_seconds)
        return self._beats[name]

    def unwatch(self, name: str) -> None:
        self._beats.pop(name, None)

    def silent(self) -> list[str]:
        return [name for name, beat in self._beats.items() if not beat.alive]

    def _set(self, ready: bool, reason: str) -> None:
        self._ready, self._reason = ready, reason
        metrics.READY.set(ready)
        for listener in self._listeners:
            listener(ready)


@dataclass
class Runtime(Generic[S]):
    """What compose() gets: who it is, its settings, and when to stop."""

    name: str
    settings: S
    health: Health = field(default_factory=Health)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


Compose = Callable[[Runtime[S]], Awaitable[None]]


def run(name: str, settings_kind: type[S], compose: Compose[S]) -> None:
    """Run one service until it is told to stop. Never returns normally: exits with a code."""
    settings = read(settings_kind)
    logs.configure(name, settings.log_level)
    spare_collector()
    try:
        uvloop.run(_serve(name, settings, compose))
    except WrongSetting as error:
        sys.stderr.write(f"finestream: {error}\n")
        sys.exit(2)
    except Exception:
        log.exception("service failed")
        sys.exit(1)
    log.info("stopped")
    sys.exit(0)


def hand_over_soon() -> None:
    """No thread keeps the interpreter from another for longer; Python's own 5 ms are all that a refusal may take."""
    sys.setswitchinterval(SWITCH_SECONDS)


def spare_collector() -> None:
    """Python's cycle collector took a sixth of graph_updater's time, most of it for modules, which never go."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_AFTER)


async def _serve(name: str, settings: S, compose: Compose[S]) -> None:
    runtime = Runtime(name, settings)
    log.info("starting", settings=masked(settings))
    metrics.SERVICE_INFO.labels(name, version("finestream")).set(1)
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, runtime.stopping.set)
    probe = await _start_probe(settings, runtime.health)
    try:
        await compose(runtime)
    finally:
        await probe.cleanup()


async def _start_probe(settings: ServiceSettings, health: Health) -> web.AppRunner:
    """The one HTTP port: /metrics, /livez, /readyz. It lives in the service's loop: a stuck loop fails it."""

    async def scrape(request: web.Request) -> web.Response:
        names = request.query.getall("name[]", [])  # Prometheus's own way to ask for a few metrics
        registry = REGISTRY.restricted_registry(names) if names else REGISTRY
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def livez(_: web.Request) -> web.Response:
        silent = health.silent()
        return web.Response(status=503 if silent else 200, text="silent: " + ", ".join(silent) if silent else "ok")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(status=200 if health.is_ready else 503, text=health.reason or "ok")

    app = web.Application()
    app.add_routes([web.get("/metrics", scrape), web.get("/livez", livez), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, settings.metrics_host, settings.metrics_port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise WrongSetting(f"metrics port {settings.metrics_host}:{settings.metrics_port}: {error.strerror}") from None
    log.info("metrics and health", address=f"{runner.addresses[0][0]}:{runner.addresses[0][1]}")
    return runner
