"""A demo's system: started in a folder of its own, watched while it works, stopped at the end whatever happens."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from shared.cli.screen import Screen
from shared.client import Client, ClientSettings, connect
from shared.kafka import Producer
from shared.local import layout
from shared.local.layout import Layout
from shared.local.ledger import Ledger
from shared.local.loglines import InFiles
from shared.local.supervisor import Supervisor
from shared.local.watch import Watch, watching
from shared.settings import KafkaSettings

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """What the steps of a demo work with."""

    system: Layout
    screen: Screen
    client: Client
    producer: Producer
    watch: Watch
    ledger: Ledger
    unclean: list[str] = field(default_factory=list)  # parts that did not end cleanly, once all have ended

    @property
    def archive_url(self) -> str:
        return self.system.env["FINESTREAM_ARCHIVE_URL"]

    @property
    def bundles_url(self) -> str:
        return self.system.env["FINESTREAM_BUNDLES_URL"]


@asynccontextmanager
async def started(screen: Screen, data: Path | None) -> AsyncIterator[tuple[Session, Supervisor]]:
    """Start everything in `data` (None: a folder that is removed at the end), and stop it again.

    Raises PartFailed when a part does not come up; one that does not end cleanly is told in `session.unclean`.
    """
    with _folder(data) as folder:
        system = layout.isolated(folder)
        logs = InFiles(system.data / "logs")
        supervisor = Supervisor(system.stages(), logs)
        try:
            async with supervisor, AsyncExitStack() as stack:
                session = await _session(system, screen, stack)
                yield session, supervisor
                screen.heading("stopping")
                await stack.aclose()
                session.unclean.extend(await supervisor.stop())
        finally:
            logs.close()


async def unless_a_part_fails(supervisor: Supervisor, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Raises PartFailed as soon as a part of the system ends by itself."""
    working, failed = asyncio.create_task(work), asyncio.create_task(supervisor.failed())
    try:
        await asyncio.wait([working, failed], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise failed.result()
        return await working
    finally:
        for task in (working, failed):
            task.cancel()
        await asyncio.gather(working, failed, return_exceptions=True)


@contextmanager
def _folder(data: Path | None) -> Iterator[Path]:
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
        yield data.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="finestream-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


async def _session(system: Layout, screen: Screen, stack: AsyncExitStack) -> Session:
    kafka = KafkaSettings(
        bootstrap=system.env["FINESTREAM_KAFKA_BOOTSTRAP"],
        topic_prefix=system.env.get("FINESTREAM_KAFKA_TOPIC_PREFIX", ""),
    )
    producer = Producer(kafka)
    await producer.start()
    stack.push_async_callback(producer.stop)
    client = await stack.enter_async_context(connect(ClientSettings.of(system.env)))
    watch = await stack.enter_async_context(watching(kafka))
    return Session(system, screen, client, producer, watch, Ledger())
