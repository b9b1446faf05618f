"""Sends events and remembers each one's id and place, so that every one can be accounted for afterwards."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from shared import topics
from shared.events import Event, Interaction, Item, Review, Source
from shared.kafka import Producer
from shared.pb.finestream.v1.position_pb2 import Position

CHUNK: Final = 500
Sent = Interaction | Review | Item
OnProgress = Callable[[int], None]  # how many have been sent


def topic_of(event: Sent) -> str:
    """The topic that a producer writes this event to."""
    if isinstance(event, Interaction):
        return topics.INTERACTIONS
    return topics.REVIEWS if isinstance(event, Review) else topics.ITEMS


def id_of(event: Event) -> str:
    """What identifies a producer's event. Raises TypeError for an event that only services write."""
    if isinstance(event, Interaction):
        return event.event_id
    if isinstance(event, Review):
        return event.review_id
    if isinstance(event, Item):
        return event.item_id
    raise TypeError(f"{type(event).__name__} is not a producer's event")


class Ledger:
    """Ids that the broker has acknowledged: topic -> id -> (partition, offset) of the newest record of that id."""

    def __init__(self) -> None:
        self.sent: dict[str, dict[str, tuple[int, int]]] = {
            topic: {} for topic in (topics.INTERACTIONS, topics.REVIEWS, topics.ITEMS)
        }

    def add(self, event: Sent, place: Source | Position) -> None:
        self.sent[topic_of(event)][id_of(event)] = (place.partition, place.offset)

    def count(self, topic: str) -> int:
        return len(self.sent[topic])


async def send_all(
    producer: Producer, ledger: Ledger, events: Iterable[Sent], on_progress: OnProgress, rate: float = 0.0
) -> int:
    """Send every event, in order per key, at most `rate` a second (0: as fast as they are taken). How many it were.

    Memory is bounded by one chunk. Raises Unavailable when the broker does not acknowledge in time.
    """
    sent, started = 0, time.monotonic()
    for chunk in chunks(events, CHUNK if rate <= 0 else max(1, min(CHUNK, int(rate / 10)))):
        places = await producer.send_all([(topic_of(event), event) for event in chunk])
        for event, place in zip(chunk, places, strict=True):
            ledger.add(event, place)
        sent += len(chunk)
        on_progress(sent)
        if rate > 0:
            await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
    return sent


def chunks(events: Iterable[Sent], size: int) -> Iterator[list[Sent]]:
    iterator = iter(events)
    while chunk := list(islice(iterator, size)):
        yield chunk
