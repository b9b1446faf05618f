"""What the way to a language model costs an extractor, and whether it keeps the allowed calls in flight.

An endpoint in a process of its own answers each call after a second, with one pair; 64 calls may be in flight. Ours is
the provider as the service has it: addresses and numbers hidden, a daily budget, every answer kept on disk, quotes
proven. Beside it, the openai client alone: the same requests, 64 at a time, answers parsed as JSON. Each runs in a
process of its own, in turn, twice; the best counts.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import web
from openai import AsyncOpenAI

from services.extractor.findings import Found
from services.extractor.openai_provider import Asking
from services.extractor.providers import provider_of
from services.extractor.settings import ExtractorSettings, OpenAISettings
from services.extractor.worker import Worker
from shared import space
from tests.bench.alone import RATE, Numbers, best
from tests.bench.figure import Figure, figure
from tests.services.extractor.doubles import answering, serving

CALLS: Final = 64
ANSWER_SECONDS: Final = 1.0
REVIEWS: Final = 20 * CALLS
START_SECONDS: Final = 30.0
CPU: Final = "CPU ms a review"
RATE_GOAL: Final = 60.0  # reviews/s; CALLS / ANSWER_SECONDS is what the endpoint could give
CPU_GOAL: Final = 3.0
WHAT: Final = (
    f"of the extractor's provider for a language model, {CALLS} calls in flight, {ANSWER_SECONDS:g} s an answer, on one"
    " core; the baseline is the goal"
)


def figures() -> list[Figure]:
    with _endpoint() as url:
        runs = best({"ours": (ours, url), "the openai client alone": (bare, url)})
    run = runs["ours"]
    parts = {f"the openai client alone, {name}": value for name, value in runs["the openai client alone"].items()}
    return [
        figure("paid", f"reviews/s {WHAT}", run[RATE], RATE_GOAL, "reviews/s", goal=1.0, parts=parts),
        figure("paid", f"{CPU} {WHAT}", run[CPU], CPU_GOAL, "ms", goal=1.0, less_is_better=True),
    ]


def ours(url: str) -> Numbers:
    return uvloop.run(_ours(url))


async def _ours(url: str) -> Numbers:
    worker = Worker()
    with tempfile.TemporaryDirectory(prefix="finestream-bench-") as folder:
        openai = OpenAISettings(base_url=url, concurrency=CALLS, daily_budget_usd=1000.0)
        settings = ExtractorSettings(provider="openai", openai=openai, state=Path(folder))
        provider = provider_of(settings, space.load(), worker)

        async def find(texts: Sequence[str]) -> None:
            answers = await provider.find(texts)
            assert all(isinstance(answer, Found) and answer.findings for answer in answers), answers

        try:
            return await _measured(find)
        finally:
            await provider.close()
            worker.stop()


def bare(url: str) -> Numbers:
    return uvloop.run(_bare(url))


async def _bare(url: str) -> Numbers:
    asking, turns = Asking(OpenAISettings(), space.load()), asyncio.Semaphore(CALLS)
    async with AsyncOpenAI(base_url=url, api_key="none") as client:

        async def ask(text: str) -> None:
            async with turns:
                answer = await client.chat.completions.create(**asking.request(text))
            assert json.loads(answer.choices[0].message.content or "")["pairs"]

        async def find(texts: Sequence[str]) -> None:
            await asyncio.gather(*map(ask, texts))

        return await _measured(find)


async def _measured(find: Callable[[Sequence[str]], Awaitable[None]]) -> Numbers:
    await find([_review(-number) for number in range(1, CALLS + 1)])  # connections are open afterwards
    started, used = time.perf_counter(), time.process_time()
    await find([_review(number) for number in range(REVIEWS)])
    seconds, used = time.perf_counter() - started, time.process_time() - used
    return {RATE: REVIEWS / seconds, CPU: 1000 * used / REVIEWS}


def _review(number: int) -> str:
    return f"It is warm, says review number {number}. " + "A word and another one. " * 12


@contextmanager
def _endpoint() -> Iterator[str]:
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        if not ours.poll(START_SECONDS):
            raise TimeoutError("the endpoint does not start")
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def serve(address: Connection) -> None:
    """Sends its base URL, and answers until it is killed."""
    uvloop.run(_serve(address))


async def _serve(address: Connection) -> None:
    answer = json.dumps(answering(("sound", "warm", "positive", "It is warm")))

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(ANSWER_SECONDS)
        return web.Response(text=answer, content_type="application/json")

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", handle)])
    async with serving(app) as url:
        address.send(url)
        await asyncio.Event().wait()
