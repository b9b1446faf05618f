"""services/ranking/feed.py: everything that is there is read before the start ends, and what comes is followed."""

import asyncio
from collections.abc import Sequence

from services.ranking.feed import Feed
from shared import events, topics
from shared.events import ItemState
from shared.kafka import Producer
from shared.settings import KafkaSettings
from tests.parts import Raw, produce, until


class Told:
    """What the feed told."""

    def __init__(self) -> None:
        self.states: list[tuple[str, bool]] = []
        self.forgotten: list[str] = []

    async def tell(self, states: Sequence[ItemState], *, live: bool) -> None:
        self.states += [(state.item_id, live) for state in states]


def state(item_id: str) -> ItemState:
    return ItemState(item_id=item_id, version=1, available=True)


async def test_the_start_reads_what_is_there_and_run_follows(kafka_settings: KafkaSettings, producer: Producer) -> None:
    ids = [f"i{n}" for n in range(300)]
    await producer.send_all([(topics.ITEM_STATES, state(item_id)) for item_id in ids])
    await produce(kafka_settings, topics.ITEM_STATES, [Raw(b"x", b"not json"), Raw(b"y", b'{"item_id": "y"}')])
    told = Told()
    feed = Feed(kafka_settings, told.tell, told.forgotten.append)
    await feed.start()
    assert sorted(told.states) == sorted((item_id, False) for item_id in ids)
    running = asyncio.create_task(feed.run())
    await producer.send(topics.ITEM_STATES, state("new"))
    await producer.send(topics.ERASURES, events.Erasure(user_id="u", erased_at=1.7e9))
    await until(lambda: ("new", True) in told.states and told.forgotten == ["u"], 10, "what comes is told")
    running.cancel()
    await feed.stop()


async def test_an_empty_topic_is_read_at_once(kafka_settings: KafkaSettings) -> None:
    told = Told()
    feed = Feed(kafka_settings, told.tell, told.forgotten.append)
    await asyncio.wait_for(feed.start(), 20)
    assert told.states == []
    await feed.stop()
