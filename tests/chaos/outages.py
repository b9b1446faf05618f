"""An HTTP server that misbehaves when told to: slow, with errors, silent, or not there at all."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from aiohttp import web

from tests.parts import free_port

HOST: Final = "127.0.0.1"
STATUSES: Final = (500, 503)
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
NOT_FORWARDED: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-encoding"})


class Outages:
    """Serves `routes` on one port for as long as it lives. `disturbed` counts the requests that did not go well."""

    def __init__(self, routes: Sequence[web.RouteDef], seed: int = 1) -> None:
        self.disturbed = 0
        self._routes = routes
        self._rng = random.Random(seed)
        self._delay_seconds = 0.0
        self._error_share = 0.0
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._port = free_port()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    @asynccontextmanager
    async def slow(self, seconds: float) -> AsyncIterator[None]:
        """Every answer takes so long."""
        self._delay_seconds = seconds
        try:
            yield
        finally:
            self._delay_seconds = 0.0

    @asynccontextmanager
    async def erring(self, share: float) -> AsyncIterator[None]:
        """So many answers are errors, half of them with the work done all the same."""
        self._error_share = share
        try:
            yield
        finally:
            self._error_share = 0.0

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[None]:
        """Requests are taken and not answered. They are done at the end, when their callers have long given up."""
        self._speaking.clear()
        try:
            yield
        finally:
            self._speaking.set()

    @asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        """Connections are dropped and new ones refused."""
        await self.close()
        try:
            yield
        finally:
            await self.open()

    async def open(self) -> None:
        app = web.Application(middlewares=[self._misbehave], client_max_size=MAX_BODY_BYTES)
        app.add_routes(self._routes)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    @web.middleware
    async def _misbehave(self, request: web.Request, handler: Answer) -> web.StreamResponse:
        fails = self._rng.random() < self._error_share
        self.disturbed += bool(fails or self._delay_seconds or not self._speaking.is_set())
        await asyncio.sleep(self._delay_seconds)
        await self._speaking.wait()
        if fails and self._rng.random() < 0.5:
            return self._error()
        answered = await handler(request)
        return self._error() if fails else answered

    def _error(self) -> web.Response:
        return web.json_response({"status": {"error": "broken on purpose"}}, status=self._rng.choice(STATUSES))


@asynccontextmanager
async def serving(routes: Sequence[web.RouteDef], seed: int = 1) -> AsyncIterator[Outages]:
    server = Outages(routes, seed)
    await server.open()
    try:
        yield server
    finally:
        await server.close()


def forwarding(session: aiohttp.ClientSession, url: str) -> list[web.RouteDef]:
    """Hand every request on to the server at `url`."""

    async def forward(request: web.Request) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in NOT_FORWARDED}
        target, body = url.rstrip("/") + request.path_qs, await request.read()
        async with session.request(request.method, target, data=body, headers=headers) as answer:
            given = {name: value for name, value in answer.headers.items() if name.lower() not in NOT_FORWARDED}
            return web.Response(status=answer.status, body=await answer.read(), headers=given)

    return [web.route("*", "/{path:.*}", forward)]
