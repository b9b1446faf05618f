"""services/extractor/calls.py against a scripted endpoint: what passes is tried again, what all must wait for is waited for."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.extractor import calls, metrics
from services.extractor.findings import Found, NothingUsable, Provider
from services.extractor.openai_api import asked_seconds
from services.extractor.providers import provider_of
from services.extractor.settings import ExtractorSettings
from services.extractor.worker import Worker
from shared.errors import Unavailable
from shared.space import Space
from tests.services.extractor.doubles import Reply, Scripted, answering, completion, count, endpoint, settings_for

GOOD = answering()
ERROR = {"error": {"message": "no", "type": "x", "code": None}}
NO_MONEY = {"error": {"message": "no", "type": "insufficient_quota", "code": "insufficient_quota"}}
NOTHING = Found([], "openai/gpt-4o-mini+prompt-2")
NOW = 1_700_000_000.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FIRST_DELAY_SECONDS", 0.02)


def provider_for(settings: ExtractorSettings, general: Space, worker: Worker) -> Provider:
    return provider_of(settings, general, worker)


async def found(base_url: str, general: Space, worker: Worker, *texts: str, **openai: Any) -> list[Any]:
    provider = provider_for(settings_for(base_url, **openai), general, worker)
    try:
        return list(await provider.find(texts))
    finally:
        await provider.close()


@pytest.mark.parametrize(
    "first",
    [
        Reply(429, ERROR), Reply(429, ERROR, headers={}), Reply(408, ERROR), Reply(409, ERROR), Reply(500, ERROR),
        Reply(503, ERROR, headers={}), Reply(200, GOOD, delay_seconds=5.0), Reply(200, GOOD, cut=True),
    ],
    ids=["429", "429 without a time", "408", "409", "500", "503", "slow", "cut"],
)  # fmt: skip
async def test_what_passes_is_tried_again(first: Reply, general: Space, worker: Worker) -> None:
    async with endpoint([first, (200, GOOD)]) as running:
        assert await found(running.base_url, general, worker, "text", timeout_seconds=0.5) == [NOTHING]
        assert len(running.requests) == 2


@pytest.mark.parametrize(
    ("reply", "reason", "requests"),
    [
        (Reply(429, ERROR), "rate_limited", 3), (Reply(429, ERROR, headers={}), "rate_limited", 3),
        (Reply(408, ERROR), "timeout", 3), (Reply(409, ERROR), "server_error", 3), (Reply(500, ERROR), "server_error", 3),
        (Reply(200, GOOD, delay_seconds=5.0), "timeout", 3), (Reply(200, GOOD, cut=True), "connection", 3),
        (Reply(429, NO_MONEY), "insufficient_quota", 1), (Reply(401, ERROR), "misconfigured", 1),
    ],
)  # fmt: skip
async def test_what_does_not_pass_must_wait_with_its_reason(
    reply: Reply, reason: str, requests: int, general: Space, worker: Worker
) -> None:
    before = count(metrics.FAILURES, reason)
    async with endpoint([reply]) as running:
        [answer] = await found(running.base_url, general, worker, "text", timeout_seconds=0.5)
        assert len(running.requests) == requests
    assert isinstance(answer, Unavailable)
    assert reason in str(answer)
    assert count(metrics.FAILURES, reason) == before + 1


async def test_in_a_mix_each_ends_as_documented_and_none_blocks_or_loses_another(
    general: Space, worker: Worker
) -> None:
    pair = ("sound", "warm", "positive", "warm")
    replies: dict[str, Scripted] = {
        "busy": Reply(429, ERROR), "broken": Reply(500, ERROR), "slow": Reply(200, GOOD, delay_seconds=5.0),
        "cut": Reply(200, GOOD, cut=True), "refused": (200, completion(None, refusal="no")),
        "filtered": (200, completion("", finish="content_filter")), "long": (200, completion('{"pairs": [', "length")),
        "garbled": (200, completion("none")), "wrong": (200, completion('{"opinions": []}')),
        "empty": (200, completion("")), "body": (200, "<html>"),
    }  # fmt: skip
    ends = {
        "busy": Unavailable, "broken": Unavailable, "slow": Unavailable, "cut": Unavailable, "refused": "refusal",
        "filtered": "content_filter", "long": "truncated", "garbled": "invalid_json", "wrong": "wrong_schema",
        "empty": "empty_answer", "body": "invalid_json",
    }  # fmt: skip

    def script(request: dict[str, Any]) -> Scripted:
        said = request["messages"][1]["content"]
        return next((reply for word, reply in replies.items() if word in said), (200, answering(pair)))

    good = [f"warm {n}" for n in range(30)]
    texts = [text for triple in zip(good[::2], good[1::2], [*replies, *good[:4]], strict=False) for text in triple]
    async with endpoint(script) as running:
        answers = await found(running.base_url, general, worker, *texts, timeout_seconds=0.5, concurrency=8)
    for text, answer in zip(texts, answers, strict=True):
        end = ends.get(text)
        if end is None:
            assert [finding.opinion for finding in answer.findings] == ["warm"], text
        elif isinstance(end, str):
            assert isinstance(answer, NothingUsable)
            assert answer.reason == end
        else:
            assert isinstance(answer, Unavailable), text


async def test_a_429_makes_every_call_wait_and_halves_the_calls_in_flight(general: Space, worker: Worker) -> None:
    busy = Reply(429, ERROR, headers={"retry-after": "0.4"})
    async with endpoint([busy, *[(200, GOOD)] * 20], delay_seconds=0.05) as running:
        answers = await found(running.base_url, general, worker, *(f"text {n}" for n in range(12)), concurrency=4)
        assert answers == [NOTHING] * 12
        together, later = running.times[:4], running.times[4:]
        assert later[0] - together[0] >= 0.4, "all wait"
        assert len(later) == 9
        assert later[2] - later[0] >= 0.05, "two at a time"
    assert 2 <= metrics.ALLOWED_CALLS._value.get() <= 4
    assert metrics.OPEN_CALLS._value.get() == 0


async def test_a_pause_that_is_longer_than_a_call_may_take_ends_it_at_once_and_nobody_asks_meanwhile(
    general: Space, worker: Worker
) -> None:
    async with endpoint([Reply(429, ERROR, headers={"retry-after": "3600"})]) as running:
        provider = provider_for(settings_for(running.base_url, concurrency=1), general, worker)
        began = time.monotonic()
        answers = [*await provider.find(["one", "two", "three"]), *await provider.find(["four"])]
        await provider.close()
        assert len(running.requests) == 1
    assert time.monotonic() - began < 5.0
    assert all(isinstance(answer, Unavailable) and "rate_limited" in str(answer) for answer in answers)


async def test_an_account_without_money_is_not_hammered(general: Space, worker: Worker) -> None:
    async with endpoint([Reply(429, NO_MONEY)]) as running:
        provider = provider_for(settings_for(running.base_url, concurrency=2), general, worker)
        answers = [*await provider.find(list("abcdefgh")), *await provider.find(list("abcdefgh"))]
        await provider.close()
        assert len(running.requests) <= 2
    assert all(isinstance(answer, Unavailable) and "insufficient_quota" in str(answer) for answer in answers)


async def test_no_try_begins_after_the_total_time(general: Space, worker: Worker) -> None:
    async with endpoint([Reply(500, ERROR, headers={"retry-after": "1"})]) as running:
        began = time.monotonic()
        [answer] = await found(running.base_url, general, worker, "text", max_retries=10, total_seconds=0.5)
        assert len(running.requests) == 1
    assert isinstance(answer, Unavailable)
    assert time.monotonic() - began < 1.0


async def test_the_wait_between_tries_grows(general: Space, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FIRST_DELAY_SECONDS", 0.1)
    async with endpoint([Reply(500, ERROR, headers={})]) as running:
        await found(running.base_url, general, worker, "text", max_retries=3)
        gaps = [later - earlier for earlier, later in pairwise(running.times)]
    for gap, least in zip(gaps, (0.05, 0.1, 0.2), strict=True):
        assert gap >= least


@given(st.integers(1, 1000))
def test_the_back_off_is_positive_and_bounded(tried: int) -> None:
    assert 0 < calls.back_off(tried) <= calls.LONGEST_DELAY_SECONDS


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0), ({"retry-after": "0.5"}, 0.5), ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0), ({}, None), ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None), ({"retry-after": "inf"}, None), ({"retry-after": "nan"}, None),
        ({"retry-after": format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=9), usegmt=True)}, 9.0),
        ({"retry-after": format_datetime(datetime.fromtimestamp(NOW, UTC) - timedelta(days=9), usegmt=True)}, 0.0),
    ],
)  # fmt: skip
def test_what_the_endpoint_asks_for_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_seconds(headers, NOW) == seconds


@given(st.text(max_size=40))
def test_a_header_of_nonsense_never_raises(written: str) -> None:
    seconds = asked_seconds({"retry-after": written, "retry-after-ms": written}, NOW)
    assert seconds is None or seconds >= 0


async def test_a_call_that_is_cancelled_gives_its_place_back(general: Space, worker: Worker) -> None:
    async with endpoint([Reply(200, GOOD, delay_seconds=5.0), (200, GOOD)]) as running:
        provider = provider_for(settings_for(running.base_url, concurrency=1), general, worker)
        first = asyncio.create_task(provider.find(["one"]))
        async with asyncio.timeout(5):
            while not running.requests:
                await asyncio.sleep(0.01)
        first.cancel()
        assert await provider.find(["two"]) == [NOTHING]
        await provider.close()
