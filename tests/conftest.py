"""Fixtures: one embedded broker a session (or the real Kafka that is set), and names of its own for every test."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog

from shared.kafka import Producer, ensure_topics
from shared.local.broker import Broker
from shared.settings import KafkaSettings
from tests.parts import free_port


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a broker: FINESTREAM_KAFKA_BOOTSTRAP where it is set, else an embedded one for this session."""
    real = os.environ.get("FINESTREAM_KAFKA_BOOTSTRAP")
    if real:
        yield real
        return
    broker = Broker(tmp_path_factory.mktemp("broker"), free_port())
    asyncio.run(broker.start())
    yield broker.bootstrap
    broker.stop()


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A test that configures logging, as the commands do, leaves none of it to the next one."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def kafka_partitions() -> int:
    """Of every topic of the test; a test that needs another number parametrizes it."""
    return 4


@pytest.fixture
def kafka_environment(kafka_bootstrap: str, kafka_partitions: int, monkeypatch: pytest.MonkeyPatch) -> KafkaSettings:
    """Settings with a random topic prefix, in the environment too, so that child processes read the same."""
    monkeypatch.setenv("FINESTREAM_KAFKA_BOOTSTRAP", kafka_bootstrap)
    monkeypatch.setenv("FINESTREAM_KAFKA_PARTITIONS", str(kafka_partitions))
    prefix = f"t{secrets.token_hex(4)}-"
    monkeypatch.setenv("FINESTREAM_KAFKA_TOPIC_PREFIX", prefix)
    monkeypatch.setenv("FINESTREAM_QDRANT_COLLECTION_PREFIX", prefix)
    return KafkaSettings()


@pytest.fixture
async def kafka_settings(kafka_environment: KafkaSettings) -> KafkaSettings:
    """As kafka_environment, with all topics created."""
    await ensure_topics(kafka_environment)
    return kafka_environment


@pytest.fixture
async def producer(kafka_settings: KafkaSettings) -> AsyncIterator[Producer]:
    """A started producer over the test's own topics."""
    started = Producer(kafka_settings)
    await started.start()
    yield started
    await started.stop()
