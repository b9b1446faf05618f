"""The tail of the log between offsets, over a broker: all of it, nothing else, and no group is touched."""

import asyncio

import pytest

from shared import log_tail, topics
from shared.errors import Unavailable
from shared.log_tail import LogTail, tailing
from shared.service import WrongSetting
from shared.settings import KafkaSettings
from tests.parts import Raw, produce

NAMES = [topics.INTERACTIONS, topics.ITEMS]


async def all_of(
    tail: LogTail, begin: log_tail.Places, end: log_tail.Places
) -> list[tuple[str, int, int, bytes | None]]:
    found = [record async for record in tail.read(begin, end)]
    return sorted((r.source.topic, r.source.partition, r.source.offset, r.value) for r in found)


async def test_what_lies_between_is_read_and_nothing_else(kafka_settings: KafkaSettings) -> None:
    await produce(kafka_settings, topics.INTERACTIONS, [Raw(b"k", str(n).encode(), 1) for n in range(6)])
    await produce(kafka_settings, topics.ITEMS, [Raw(b"k", None, 3, (("h", b"x"),))])
    async with tailing(kafka_settings) as tail:
        firsts, ends = await tail.firsts(NAMES), await tail.ends(NAMES)
        assert firsts == {name: dict.fromkeys(range(4), 0) for name in NAMES}
        assert ends == {topics.INTERACTIONS: {0: 0, 1: 6, 2: 0, 3: 0}, topics.ITEMS: {0: 0, 1: 0, 2: 0, 3: 1}}
        assert len(await all_of(tail, {}, ends)) == 7
        part = await all_of(tail, {topics.INTERACTIONS: {1: 2}}, {topics.INTERACTIONS: {1: 4}})
        assert part == [(topics.INTERACTIONS, 1, 2, b"2"), (topics.INTERACTIONS, 1, 3, b"3")]
        (item,) = [record async for record in tail.read({}, {topics.ITEMS: {3: 1}})]
        assert (item.key, item.value, item.headers) == (b"k", None, (("h", b"x"),))
        assert item.source.appended_at > 1.7e9
        assert await all_of(tail, ends, ends) == []  # the last one: stopping right after it once took for ever


async def test_another_number_of_partitions_than_set_is_a_wrong_setting(kafka_settings: KafkaSettings) -> None:
    async with tailing(kafka_settings) as tail:
        await tail.check_partitions(NAMES)
    for number in (3, 8):
        async with tailing(kafka_settings.model_copy(update={"partitions": number})) as tail:
            with pytest.raises(WrongSetting, match=rf"interactions has 4 partitions but .*PARTITIONS is {number}"):
                await tail.check_partitions(NAMES)


async def test_a_broker_that_gives_nothing_is_not_waited_for_without_end(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(timeout_ms: int) -> dict[object, object]:
        await asyncio.sleep(0.001)
        return {}

    await produce(kafka_settings, topics.ITEMS, [Raw(b"k", b"v", 0)])
    monkeypatch.setattr(log_tail, "SILENT_SECONDS", 0.0)
    async with tailing(kafka_settings) as tail:
        monkeypatch.setattr(tail._consumer, "getmany", nothing)
        with pytest.raises(Unavailable, match="has given nothing"):
            await all_of(tail, {}, {topics.ITEMS: {0: 1}})
