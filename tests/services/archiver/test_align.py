"""services/archiver/align.py: where to go on when the log no longer holds the next offset."""

from collections.abc import Mapping

import pytest
from prometheus_client import REGISTRY

from services.archiver.align import align
from services.archiver.log_reader import LogReader, Place
from services.archiver.writer import Writer
from shared import topics
from shared.settings import KafkaSettings
from tests.services.archiver.records import START, click, memory_url, opened, rows

CLICKS = (topics.INTERACTIONS, 0)


class Log(LogReader):
    """A test double: a partition of clicks with given bounds, and its first offset after the archive's newest."""

    def __init__(self, first: int, end: int, after: int | None = None) -> None:
        super().__init__(KafkaSettings(), [CLICKS])
        self._bounds, self._after = (first, end), after
        self.asked_after: float | None = None
        self.position: int | None = None

    async def bounds(self) -> dict[Place, tuple[int, int]]:
        return {CLICKS: self._bounds}

    async def first_after(self, place: Place, seconds: float) -> int | None:
        self.asked_after = seconds
        return self._after

    def seek(self, offsets: Mapping[Place, int]) -> None:
        self.position = offsets[CLICKS]


def archived(url: str, count: int) -> Writer:
    writer = opened(url)
    if count:
        writer.append([click(n, ts=1e9 + n) for n in range(count)])
    return writer


@pytest.mark.parametrize(
    ("count", "log", "position"),
    [
        (0, Log(0, 0), 0),
        (0, Log(7, 9), 7),
        (5, Log(0, 5), 5),
        (5, Log(5, 9), 5),
        (5, Log(8, 12), 8),
        (5, Log(0, 3), 3),
        (5, Log(0, 4, after=2), 2),
        (5, Log(0, 0), 0),
    ],
    ids=["empty", "first start", "at the end", "in it", "expired", "went back", "and grew again", "new broker"],
)
async def test_reading_goes_on_at_the_nearest_offset_that_is_there(count: int, log: Log, position: int) -> None:
    await align(log, archived(memory_url(), count))
    assert log.position == position


async def test_after_a_log_went_back_what_it_uses_again_is_archived_too() -> None:
    url = memory_url()
    writer, log = archived(url, 5), Log(0, 4, after=2)
    await align(log, writer)
    assert log.asked_after == START, "newer than the newest that is archived"
    writer.append([click(n, ts=1.2e9) for n in range(2, 4)])
    assert [row.offset for row in rows(url)] == [0, 1, 2, 3, 4, 2, 3]


async def test_records_that_left_kafka_unarchived_are_counted() -> None:
    labels = {"topic": topics.INTERACTIONS}
    before = REGISTRY.get_sample_value("finestream_archiver_expired_records_total", labels) or 0.0
    await align(Log(8, 12), archived(memory_url(), 5))
    assert REGISTRY.get_sample_value("finestream_archiver_expired_records_total", labels) == before + 3
