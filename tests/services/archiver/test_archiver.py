"""services/archiver/archiver.py: the loop gathers, flushes and waits, and holds no more than it may."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from services.archiver.archiver import Archiver
from services.archiver.log_reader import LogMoved, LogReader, Place
from services.archiver.settings import ArchiverSettings
from services.archiver.sift import Record
from services.archiver.writer import Superseded, Writer
from shared import topics
from shared.archive import Store
from shared.service import Heartbeat
from shared.settings import KafkaSettings
from tests.parts import until
from tests.services.archiver.records import FailingStore, click, memory_url, opened, places, rows

CLICKS = (topics.INTERACTIONS, 0)


class Log(LogReader):
    """A test double of Kafka: a partition of clicks, given out a few at a time."""

    def __init__(self, count: int, *, moves_at: int = -1) -> None:
        super().__init__(KafkaSettings(), [CLICKS])
        self.count, self.at, self.first = count, 0, 0
        self._moves_at = moves_at

    async def poll(self, timeout_seconds: float) -> list[Record]:
        await asyncio.sleep(0.001)
        if self.at == self._moves_at:
            self._moves_at, self.first = -1, self.at + 100
            raise LogMoved("the log starts later now")
        found = [click(n) for n in range(self.at, min(self.at + 10, self.count))]
        self.at += len(found)
        return found

    async def bounds(self) -> dict[Place, tuple[int, int]]:
        return {CLICKS: (self.first, self.count)}

    def seek(self, offsets: Mapping[Place, int]) -> None:
        self.at = offsets[CLICKS]


class SlowStore(Store):
    """A test double of a store that is down until it is told to work."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.is_down = False

    def put(self, name: str, data: bytes) -> None:
        if self.is_down:
            raise OSError("the store does not answer")
        super().put(name, data)


async def running(
    log: Log, writer: Writer, heartbeat: Heartbeat | None = None, **options: Any
) -> tuple["asyncio.Task[None]", asyncio.Event]:
    settings = ArchiverSettings(**{"flush_seconds": 0.02, "lag_check_seconds": 60, "stop_seconds": 0.5, **options})
    stopping = asyncio.Event()
    archiver = Archiver(settings, log, writer, heartbeat or Heartbeat(60))
    return asyncio.create_task(archiver.run(stopping)), stopping


def offsets(url: str) -> Sequence[int]:
    return [offset for _, _, offset in places(rows(url))]


async def test_what_was_gathered_is_flushed_at_a_stop() -> None:
    url, log = memory_url(), Log(35)
    task, stopping = await running(log, opened(url), flush_seconds=60)
    await until(lambda: log.at == 35, 5, "all is gathered")
    assert offsets(url) == []
    stopping.set()
    await task
    assert offsets(url) == list(range(35))


async def test_a_flush_comes_after_so_many_records_or_so_long() -> None:
    by_rows, by_time = memory_url(), memory_url()
    first, _ = await running(Log(40), opened(by_rows), flush_rows=20, flush_seconds=60)
    second, _ = await running(Log(5), opened(by_time), flush_rows=1000, flush_seconds=0.05)
    await until(lambda: offsets(by_rows) == list(range(40)), 5, "flushed by rows")
    await until(lambda: offsets(by_time) == list(range(5)), 5, "flushed by time")
    first.cancel()
    second.cancel()


async def test_a_store_that_is_down_holds_back_kafka_and_nothing_is_lost_when_it_is_back() -> None:
    url = memory_url()
    store, log, heartbeat = SlowStore(url), Log(1000), Heartbeat(0.3)
    writer = opened(store)
    store.is_down = True
    task, stopping = await running(log, writer, heartbeat, flush_rows=50)
    await until(lambda: not heartbeat.alive, 5, "no progress is no life")
    assert log.at <= 160, "one batch in flight, two gathered, and one poll beyond"
    store.is_down = False
    await until(lambda: offsets(url) == list(range(1000)), 10, "all is archived")
    await until(lambda: heartbeat.alive, 5, "progress is life again")
    stopping.set()
    await task


async def test_a_stop_while_the_store_is_down_ends_in_time() -> None:
    store, log = SlowStore(memory_url()), Log(1000)
    writer = opened(store)
    store.is_down = True
    task, stopping = await running(log, writer, flush_rows=50)
    await until(lambda: log.at >= 100, 5, "records wait")
    stopping.set()
    await asyncio.wait_for(task, 5)


async def test_a_write_that_fails_once_is_tried_again() -> None:
    url = memory_url()
    store = FailingStore(url)
    writer = opened(store)
    store.fails_at = store.changes + 2
    task, stopping = await running(Log(25), writer)
    await until(lambda: offsets(url) == list(range(25)), 5, "all is archived")
    stopping.set()
    await task


async def test_when_the_log_moves_what_was_read_is_archived_before_going_on() -> None:
    url = memory_url()
    log = Log(200, moves_at=30)
    task, stopping = await running(log, opened(url), flush_seconds=60)
    await until(lambda: offsets(url) == list(range(30)) and log.at == 200, 5, "what was read before is archived")
    stopping.set()
    await task
    assert offsets(url) == [*range(30), *range(130, 200)]


async def test_it_ends_when_another_process_has_taken_over() -> None:
    url = memory_url()
    writer = opened(url)
    opened(url)
    task, _ = await running(Log(10), writer)
    with pytest.raises(Superseded):
        await asyncio.wait_for(task, 5)
