"""What is sent is remembered where the broker put it, whole and in order."""

import time
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from shared import topics
from shared.events import Event, Interaction, Item, Review, Source
from shared.local.ledger import Ledger, chunks, send_all, topic_of


class Broker:
    """An in-memory twin of the producer."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Event]] = []

    async def send_all(self, batch: Sequence[tuple[str, Event]]) -> list[Source]:
        start = len(self.log)
        self.log += batch
        return [Source(topic, 0, start + n, 1.0) for n, (topic, _) in enumerate(batch)]


def events_of(count: int) -> list[Interaction | Review | Item]:
    made: list[Interaction | Review | Item] = []
    for n in range(count):
        made.append(Interaction(event_id=f"e{n}", user_id="u", item_id="i", ts=1e9))
        made.append(Review(review_id=f"e{n}", user_id="u", item_id="i", ts=1e9, text="x"))
    return [*made, Item(item_id="e0", ts=1e9)]


async def test_every_event_is_sent_once_in_order_and_remembered_by_topic() -> None:
    broker, ledger, seen = Broker(), Ledger(), list[int]()
    events = events_of(700)
    assert await send_all(broker, ledger, iter(events), seen.append) == len(events)  # type: ignore[arg-type]
    assert [event for _, event in broker.log] == events
    assert all(topic == topic_of(event) for topic, event in zip((t for t, _ in broker.log), events, strict=True))
    assert {topic: len(ids) for topic, ids in ledger.sent.items()} == {
        topics.INTERACTIONS: 700, topics.REVIEWS: 700, topics.ITEMS: 1,
    }  # fmt: skip
    assert ledger.sent[topics.REVIEWS]["e3"] == (0, 7)
    assert seen == sorted(seen)
    assert seen[-1] == len(events)


async def test_a_rate_is_kept() -> None:
    started = time.monotonic()
    await send_all(Broker(), Ledger(), iter(events_of(50)), lambda _: None, rate=200.0)  # type: ignore[arg-type]
    assert 0.4 < time.monotonic() - started < 2.0


@given(st.integers(0, 50), st.integers(1, 20))
def test_chunks_are_the_whole_in_order(count: int, size: int) -> None:
    events = events_of(count)
    parts = list(chunks(iter(events), size))
    assert [event for part in parts for event in part] == events
    assert all(len(part) <= size for part in parts)
