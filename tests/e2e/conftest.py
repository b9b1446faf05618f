"""The real services as processes, on free ports and in a folder of their own, and a client of them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shared.client import Client, ClientSettings, connect
from shared.kafka import Producer
from shared.local import verify
from shared.local.layout import Layout, isolated
from shared.local.ledger import Ledger, Sent, send_all
from shared.local.supervisor import Supervisor
from shared.local.watch import Watch, watching
from shared.settings import KafkaSettings


@dataclass
class System:
    """A running system and the ways into it."""

    layout: Layout
    supervisor: Supervisor
    kafka: KafkaSettings
    client: Client
    producer: Producer
    watch: Watch
    logs: list[str]
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def archive_url(self) -> str:
        return self.layout.env["FINESTREAM_ARCHIVE_URL"]

    async def send(self, events: list[Sent]) -> None:
        await send_all(self.producer, self.ledger, events, lambda _: None)

    async def accounts(self, found: verify.Archived) -> verify.Accounts:
        letters = [letter async for letter in self.watch.letters()]
        return verify.account(self.ledger, found, letters)


@asynccontextmanager
async def running(folder: Path, **settings: str) -> AsyncIterator[System]:
    """Start everything, with these FINESTREAM_* variables on top, and stop it cleanly."""
    layout = isolated(folder, {**os.environ, **settings})
    lines: list[str] = []
    kafka = KafkaSettings(
        bootstrap=layout.env["FINESTREAM_KAFKA_BOOTSTRAP"],
        topic_prefix=layout.env.get("FINESTREAM_KAFKA_TOPIC_PREFIX", ""),
    )
    async with Supervisor(layout.stages(), lambda part, line: lines.append(f"{part}: {line}")) as supervisor:
        producer = Producer(kafka)
        await producer.start()
        try:
            async with connect(ClientSettings.of(layout.env)) as client, watching(kafka) as watch:
                yield System(layout, supervisor, kafka, client, producer, watch, lines)
        finally:
            await producer.stop()


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with running(tmp_path) as started:
        yield started
