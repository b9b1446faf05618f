"""Test doubles: a sender that keeps what it is given, a provider that says what it is told, a scripted endpoint."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from prometheus_client import Counter

from services.extractor.findings import Answered
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

    answers: dict[str, Answered]
    name: str = "saying/test"
    asked: list[str] = field(default_factory=list)

    async def find(self, texts: Sequence[str]) -> list[Answered]:
        self.asked.extend(texts)
        return [self.answers.get(text, []) for text in texts]

    async def close(self) -> None:
        """Nothing is open."""


def delivered(event: Event, offset: int = 0) -> Delivery:
    return Delivery(event, Source("reviews", 0, offset, 1_700_000_000.5))


def count(counter: Counter, *labels: str) -> float:
    return float(counter.labels(*labels)._value.get())


Script = list[tuple[int, Any]]  # status and JSON body (or text), one a request; the last is repeated


def completion(content: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }  # fmt: skip


def answering(*pairs: tuple[str, str, str, str]) -> dict[str, Any]:
    keys = ("attribute", "opinion", "polarity", "quote")
    return completion(json.dumps({"pairs": [dict(zip(keys, pair, strict=True)) for pair in pairs]}))


@dataclass
class Endpoint:
    """What runs: its address and every request that it got."""

    base_url: str
    requests: list[dict[str, Any]]
    at_once: int = 0
    most_at_once: int = 0


@asynccontextmanager
async def endpoint(
    script: Script | Callable[[dict[str, Any]], tuple[int, Any]], delay_seconds: float = 0.0
) -> AsyncIterator[Endpoint]:
    running = Endpoint("", [])

    async def handle(request: web.Request) -> web.Response:
        asked = await request.json()
        running.requests.append(asked)
        number = len(running.requests)
        running.at_once += 1
        running.most_at_once = max(running.most_at_once, running.at_once)
        await asyncio.sleep(delay_seconds)
        running.at_once -= 1
        status, body = script(asked) if callable(script) else script[min(number, len(script)) - 1]
        headers = {"retry-after-ms": "1"}
        if isinstance(body, str):
            return web.Response(status=status, text=body, content_type="application/json", headers=headers)
        return web.json_response(body, status=status, headers=headers)

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", handle), web.post("/v1/embeddings", handle)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        running.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield running
    finally:
        await runner.cleanup()


def settings_for(base_url: str, **openai: Any) -> ExtractorSettings:
    return ExtractorSettings(
        provider="openai", openai=OpenAISettings(base_url=base_url, **{"timeout_seconds": 5.0, **openai})
    )
