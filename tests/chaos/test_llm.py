"""The language model's endpoint failing, then gone, while reviews come: they wait, and none is lost or refused."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from itertools import chain, count, repeat
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from shared import topics
from shared.events import Review
from shared.local.watch import total
from tests.chaos.breaking import RECOVERY_SECONDS, SEED, TIMEOUT_SECONDS, break_often, until_more
from tests.chaos.outages import Outages, serving
from tests.chaos.story import BASE, WORDS
from tests.e2e.conftest import System, running
from tests.parts import until
from tests.services.extractor.doubles import answering

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(TIMEOUT_SECONDS)]
EXTRACTOR: Final = "extractor"
A_MINUTE: Final = 60.0
FAILURES: Final = "finestream_extractor_failures_total"
PAIR_OF: Final = dict(
    zip(
        WORDS,
        [
            ("comfort", "feels great", "positive", "neck feels great"),
            ("durability", "break fast", "negative", "strings break fast"),
            ("sound", "awful", "negative", "Awful sound"),
            ("price", "too expensive", "negative", "Too expensive"),
        ],
        strict=True,
    )
)


async def complete(request: web.Request) -> web.Response:
    """Answer as a model would that reads the story's reviews well."""
    asked = await request.json()
    text = json.loads(asked["messages"][1]["content"])["review"]
    return web.json_response(answering(*(pair for words, pair in PAIR_OF.items() if text.startswith(words))))


@pytest.fixture
async def llm() -> AsyncIterator[Outages]:
    async with serving([web.post("/v1/chat/completions", complete)], SEED) as server:
        yield server


@pytest.fixture
async def system(tmp_path: Path, llm: Outages) -> AsyncIterator[System]:
    of_llm = {"FINESTREAM_OPENAI_BASE_URL": f"{llm.url}/v1", "FINESTREAM_OPENAI_API_KEY": "none"}
    async with running(tmp_path, FINESTREAM_EXTRACTOR_PROVIDER="openai", **of_llm) as started:
        yield started


async def test_reviews_wait_for_an_llm_that_answers_503_and_then_refuses_connections(
    system: System, llm: Outages
) -> None:
    numbers = count()

    async def send_review() -> Review:
        number = next(numbers)
        review = Review(
            review_id=f"probe-{number}", user_id=f"reviewer-{number}", item_id="i0", ts=BASE + number,
            text=f"{WORDS[0]} (probe {number})", rating=5.0,
        )  # fmt: skip
        await system.send([review])
        return review

    async def answered() -> int:
        return total(await system.watch.ends([topics.OPINIONS]), topics.OPINIONS)

    outages = chain([A_MINUTE], repeat(0.0))  # one is a minute at least, the others as short as they show

    async def go_away() -> float:
        async with llm.erring(1.0):
            review = await send_review()
            await until_more(system, EXTRACTOR, FAILURES, reason="server_error")
            before = await answered()  # the extractor's one batch in hand has failed: nothing is on its way
            async with llm.gone():
                await until_more(system, EXTRACTOR, FAILURES, reason="connection")
                await asyncio.sleep(next(outages))
            assert await answered() == before, "reviews wait"
        began = time.monotonic()
        await until(lambda: shown(review), RECOVERY_SECONDS, "the review that waited shows in its user's state")
        return time.monotonic() - began

    async def shown(review: Review) -> bool:
        found = await system.client.users([review.user_id])
        return any(slot.pairs for user in found.values() for slot in user.reviews)

    await break_often(system, go_away, "LLM gone")
