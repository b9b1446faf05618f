"""Test doubles: a sender that keeps what it is given, a provider that says what it is told, a scripted endpoint."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from aiohttp import web
from prometheus_client import Counter

from services.extractor.findings import Answered, Finding, Found, NothingUsable
from services.extractor.settings import ExtractorSettings, OpenAISettings
from shared.errors import Unavailable
from shared.events import Event, Source
from shared.streams import Delivery


@dataclass
class Sent:
    """Keeps what was sent; fails as often as told first."""

    failures: int = 0
    events: list[tuple[str, Event]] = field(default_factory=list)

    async def send_all(self, batch: Sequence[tuple[str, Event]]) -> list[Source]:
        if self.failures:
            self.failures -= 1
            raise Unavailable("the broker is away")
        self.events.extend(batch)
        return [Source(topic, 0, n, 0.0) for n, (topic, _) in enumerate(batch)]


@dataclass
class Saying:
    """A provider that answers from a table, and remembers what it was asked."""

    answers: dict[str, list[Finding] | NothingUsable | Unavailable]
    name: str = "saying/test"
    asked: list[str] = field(default_factory=list)

    async def find(self, texts: Sequence[str]) -> list[Answered]:
        self.asked.extend(texts)
        answers = [self.answers.get(text, []) for text in texts]
        return [Found(answer, self.name) if isinstance(answer, list) else answer for answer in answers]

    async def close(self) -> None:
        """Nothing is open."""


def delivered(event: Event, offset: int = 0) -> Delivery:
    return Delivery(event, Source("reviews", 0, offset, 1_700_000_000.5))


def count(counter: Counter, *labels: str) -> float:
    return float(counter.labels(*labels)._value.get())


@dataclass(frozen=True)
class Reply:
    """What the endpoint does with one request."""

    status: int
    body: Any  # JSON, or text as it is
    headers: dict[str, str] = field(default_factory=lambda: {"retry-after-ms": "1"})
    delay_seconds: float = 0.0  # before the first byte
    cut: bool = False  # the connection, in the middle of the body


Scripted = Reply | tuple[int, Any]  # a tuple: status and body
Script = list[Scripted]  # one a request; the last is repeated


def completion(content: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }  # fmt: skip


def answering(*pairs: tuple[str, ...]) -> dict[str, Any]:
    """An aspect may be left out of a pair: then no word names what is judged."""
    keys = ("attribute", "opinion", "polarity", "quote", "aspect")
    return completion(json.dumps({"pairs": [dict(zip_longest(keys, pair, fillvalue="")) for pair in pairs]}))


@dataclass
class Endpoint:
    """What runs: its address and every request that it got."""

    base_url: str
    requests: list[dict[str, Any]]
    times: list[float] = field(default_factory=list)  # of the requests, monotonic
    at_once: int = 0
    most_at_once: int = 0


@asynccontextmanager
async def endpoint(
    script: Script | Callable[[dict[str, Any]], Scripted], delay_seconds: float = 0.0
) -> AsyncIterator[Endpoint]:
    running = Endpoint("", [])

    async def handle(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        running.requests.append(asked)
        running.times.append(time.monotonic())
        number = len(running.requests)
        scripted = script(asked) if callable(script) else script[min(number, len(script)) - 1]
        reply = scripted if isinstance(scripted, Reply) else Reply(*scripted)
        running.at_once += 1
        running.most_at_once = max(running.most_at_once, running.at_once)
        try:
            await asyncio.sleep(reply.delay_seconds or delay_seconds)
        finally:
            running.at_once -= 1
        text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        if reply.cut:
            return await _cut(request, text)
        return web.Response(status=reply.status, text=text, content_type="application/json", headers=reply.headers)

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", handle), web.post("/v1/embeddings", handle)])
    async with serving(app) as running.base_url:
        yield running


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """The base URL of an endpoint, on any free port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def _cut(request: web.Request, text: str) -> web.StreamResponse:
    """Half of what was announced, and then nothing more."""
    response = web.StreamResponse(headers={"Content-Length": str(len(text.encode()))})
    await response.prepare(request)
    await response.write(text.encode()[: len(text) // 2])
    if request.transport is not None:
        request.transport.abort()
    return response


def settings_for(base_url: str, **openai: Any) -> ExtractorSettings:
    return ExtractorSettings(
        provider="openai",
        openai=OpenAISettings(base_url=base_url, **{"timeout_seconds": 5.0, "kept_answers": 0, **openai}),
    )
