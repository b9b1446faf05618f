"""The extractor's process with an LLM: what there is no money for waits (test_llama.py has it with a real one)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared import events, topics
from shared.events import Opinions, Review
from shared.kafka import Producer
from shared.settings import KafkaSettings
from tests.parts import read_topic, until
from tests.running import Running
from tests.services.extractor.doubles import answering, endpoint

pytestmark = pytest.mark.e2e
FAILURES = "finestream_extractor_failures_total"


@asynccontextmanager
async def extractor(folder: Path, base_url: str, **openai: str) -> AsyncIterator[Running]:
    """With one folder, one extractor that is started again."""
    given = {"BASE_URL": base_url, "CONCURRENCY": "1", **openai}
    environment = {f"FINESTREAM_OPENAI_{name}": value for name, value in given.items()}
    running = Running(
        "extractor", folder,
        FINESTREAM_EXTRACTOR_PROVIDER="openai", FINESTREAM_EXTRACTOR_STATE=str(folder / "state"), **environment,
    )  # fmt: skip
    try:
        await asyncio.to_thread(running.ready)  # the endpoint may be in this process, and answers meanwhile
        yield running
    finally:
        code = await asyncio.to_thread(running.stop)
    assert code == 0, running.log


def reviews(name: str, texts: Sequence[str]) -> list[Review]:
    return [
        Review(review_id=f"{name}{n}", user_id=f"u{n}", item_id="i", ts=1e9, text=text) for n, text in enumerate(texts)
    ]


async def publish(producer: Producer, written: Sequence[Review]) -> None:
    await producer.send_all([(topics.REVIEWS, review) for review in written])


async def opinions(settings: KafkaSettings) -> dict[str, Opinions]:
    """By review."""
    decoded = [events.decode(topics.OPINIONS, record.value) for record in await read_topic(settings, topics.OPINIONS)]
    return {event.review_id: event for event in decoded if isinstance(event, Opinions)}


def published(settings: KafkaSettings, number: int) -> Callable[[], object]:
    async def are() -> bool:
        return len(await opinions(settings)) >= number

    return are


async def test_over_budget_reviews_wait_and_none_is_lost_or_paid_for_twice(
    kafka_settings: KafkaSettings, producer: Producer, tmp_path: Path
) -> None:
    usage = {"prompt_tokens": 600, "completion_tokens": 700}
    costly = {**answering(("sound", "warm", "positive", "warm")), "usage": usage}
    async with endpoint([(200, costly)]) as llm:
        async with extractor(tmp_path, llm.base_url, DAILY_BUDGET_USD="0.0025") as running:
            await publish(producer, reviews("r", [f"warm {number}" for number in range(8)]))
            await until(lambda: running.metric(FAILURES, reason="over_budget") > 0, 60, "no money is left")
            paid = len(llm.requests)
            assert 0 < paid < 8
        async with extractor(tmp_path, llm.base_url, DAILY_BUDGET_USD="1"):
            await until(published(kafka_settings, 8), 60, "opinions of all, now that there is money")
        assert len(llm.requests) == 8
    for event in (await opinions(kafka_settings)).values():
        assert [pair.quote for pair in event.pairs] == ["warm"]
