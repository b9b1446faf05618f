"""An idle consumer asks a few times a second, not thousands of times, and what arrives is still seen at once."""

import asyncio
import inspect
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaClient, AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher

from shared import fetch_pause, topics
from shared.events import Interaction
from shared.kafka import Producer, client_options, ensure_topics
from shared.local.broker import Broker
from shared.settings import KafkaSettings


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
async def kafka(tmp_path: Path) -> AsyncIterator[KafkaSettings]:
    broker = Broker(tmp_path, free_port())
    await broker.start()
    try:
        settings = KafkaSettings(bootstrap=broker.bootstrap)
        await ensure_topics(settings)
        yield settings
    finally:
        broker.stop()


def test_what_is_wrapped_is_still_what_aiokafka_calls() -> None:
    assert list(inspect.signature(fetch_pause._original).parameters) == ["self", "assignment", "node_id", "request"]
    assert "self._proc_fetch_request(assignment, node_id, request)" in inspect.getsource(
        Fetcher._fetch_requests_routine
    )
    assert Fetcher._proc_fetch_request is fetch_pause._paced


async def test_a_consumer_stops_cleanly_in_the_middle_of_a_pause(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_pause, "FETCH_PAUSE_SECONDS", 60.0)
    consumer = AIOKafkaConsumer(topics.INTERACTIONS, **client_options(kafka))
    await consumer.start()
    await consumer.getmany(timeout_ms=500)
    async with asyncio.timeout(5):
        await consumer.stop()


async def test_an_idle_consumer_pauses_and_a_record_is_seen_soon(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    send = AIOKafkaClient.send

    async def counting(self: Any, node_id: Any, request: Any, **options: Any) -> Any:
        nonlocal asked
        asked += type(request).__name__ == "FetchRequest"
        return await send(self, node_id, request, **options)

    monkeypatch.setattr(AIOKafkaClient, "send", counting)
    consumer = AIOKafkaConsumer(topics.INTERACTIONS, **client_options(kafka), auto_offset_reset="earliest")
    producer = Producer(kafka)
    await consumer.start()
    await producer.start()
    try:
        assert await consumer.getmany(timeout_ms=1000) == {}
        assert 0 < asked <= 1.2 / fetch_pause.FETCH_PAUSE_SECONDS
        started = time.monotonic()
        await producer.send(topics.INTERACTIONS, Interaction(event_id="e", user_id="u", item_id="i", ts=1e9))
        assert sum(map(len, (await consumer.getmany(timeout_ms=5000)).values())) == 1
        assert time.monotonic() - started < 1.0
    finally:
        await consumer.stop()
        await producer.stop()
