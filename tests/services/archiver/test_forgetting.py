"""services/archiver/forgetting.py: of a user who has been erased no dead letter is left, whichever came first."""

import json
from typing import Any

import pytest

from services.archiver.forgetting import Forgetting
from shared import dead_letters, topics
from shared.dead_letters import Letter, Record
from shared.events import Source
from shared.kafka import Producer, ensure_topics
from shared.local.watch import watching
from shared.settings import KafkaSettings
from tests.parts import read_topic

AT = 1.7e9  # when Kafka took what became letters


def letter(offset: int, topic: str = topics.REVIEWS, key: str = "ann", group: str = "g", **said: Any) -> Letter:
    value = json.dumps(said).encode() if said else b"{ not json"
    return Letter(Record(Source(topic, 0, offset, AT), key.encode(), value), group, "s", "not_json", "no")


class World:
    """Letters over a broker, the erasures that are known, and what is left to read."""

    def __init__(self, kafka: KafkaSettings, producer: Producer) -> None:
        self.kafka = kafka
        self.producer = producer
        self.erased: dict[str, float] = {}

    def forgetting(self, *spaces: str, worker: int = 0, workers: int = 1) -> Forgetting:
        names = spaces or (self.kafka.space,)
        return Forgetting(self.kafka, names, self.producer, lambda: dict(self.erased), lambda p: p % workers == worker)

    async def bury(self, *letters: Letter) -> None:
        for one in letters:
            await dead_letters.send(self.producer, one)

    async def left(self) -> list[int]:
        async with watching(self.kafka) as watch:
            return sorted([found.record.source.offset async for found in watch.letters()])


@pytest.fixture
def world(kafka_settings: KafkaSettings, producer: Producer) -> World:
    return World(kafka_settings, producer)


async def test_letters_of_the_erased_are_taken_back_and_the_others_stay(world: World) -> None:
    await world.bury(
        letter(0, user_id="ann", ts=AT - 50), letter(1, user_id="bob", key="bob"), letter(2),  # its key alone tells
        letter(3, user_id="ann", ts=AT - 5),  # of after the erasure
        letter(4, topics.ITEM_EDGES, key="item", user_id="ann", ts=AT - 50), letter(5, topics.ITEMS, key="ann"),
        letter(6, topics.ITEM_EDGES, key="item", user_id="ann", ts=AT - 50, erased_at=AT - 10),  # it blanks her review
        letter(7, key="x", user_id="ann", ts="yesterday"), letter(8, user_id=7), letter(9, key="x", user_id=[["ann"]]),
    )  # fmt: skip
    forgetting = world.forgetting()
    assert await forgetting.look() == 0
    world.erased["ann"] = AT - 10
    assert await forgetting.look() == 2
    assert await world.left() == [1, 2, 3, 5, 6, 7, 8, 9]
    world.erased["ann"] = AT + 10
    assert await forgetting.look() == 4
    assert await world.left() == [1, 5, 6, 9], "an item may be called as a user is"


async def test_one_letter_that_nobody_can_read_does_not_keep_the_others(world: World) -> None:
    deep = Letter(Record(Source(topics.REVIEWS, 0, 0, AT), b"bob", b'{"x":' + b"[" * 5000), "g", "s", "not_json", "no")
    await world.bury(deep, letter(1))
    world.erased["ann"] = AT + 10
    assert await world.forgetting().look() == 1
    assert await world.left() == [0]


async def test_a_letter_that_comes_after_the_erasure_goes_too_and_none_is_taken_back_twice(world: World) -> None:
    world.erased["ann"] = AT + 10
    await world.bury(letter(0))
    forgetting = world.forgetting()
    assert [await forgetting.look() for _ in range(2)] == [1, 0]
    await world.bury(letter(1))
    assert await forgetting.look() == 1
    assert await world.forgetting().look() == 0, "a start looks at all of them again"
    assert await world.left() == []
    await world.bury(letter(0))  # a batch that was handled twice
    assert await forgetting.look() == 1


async def test_workers_share_the_letters_and_spaces_have_their_own(world: World, kafka_settings: KafkaSettings) -> None:
    other = kafka_settings.model_copy(update={"space": "other"})
    await ensure_topics(other)
    theirs = Producer(other)
    await theirs.start()
    for n in range(20):
        await dead_letters.send(theirs, letter(n, topics.OPINIONS))
    await theirs.stop()
    world.erased["ann"] = AT + 10
    both = [world.forgetting(kafka_settings.space, "other", worker=n, workers=2) for n in range(2)]
    taken = [await one.look() for one in both]
    assert sum(taken) == 20
    assert all(taken)
    letters = await read_topic(other, topics.dead_letters(topics.OPINIONS))
    assert len(letters) == 40
    assert len({record.key for record in letters if record.value is None}) == 20
    assert not await read_topic(kafka_settings, topics.dead_letters(topics.OPINIONS))
