"""Records as they come from Kafka, and stores that fail when they are told to."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

from services.archiver.sift import Record
from services.archiver.writer import Writer
from shared import archive, events, topics
from shared.archive import Archived, Store
from shared.events import Erasure, Event, Impression, Interaction, InteractionEdge, Opinions, Review, ReviewEdge, Source
from shared.space import DEFAULT_SPACE

DAY = 86_400.0
START = 1.7e9  # 2023-11-14T22:13:20Z


class Crash(Exception):
    """A test double of a process that ends here."""


class FailingStore(Store):
    """Fails at the n-th change, before or after it has taken effect."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.changes = 0
        self.fails_at = -1
        self.after = False

    def put(self, name: str, data: bytes) -> None:
        self._change(lambda: super(FailingStore, self).put(name, data))

    def delete(self, name: str) -> None:
        self._change(lambda: super(FailingStore, self).delete(name))

    def _change(self, take_effect: Any) -> None:
        self.changes += 1
        if self.changes == self.fails_at and not self.after:
            raise Crash
        take_effect()
        if self.changes == self.fails_at:
            raise Crash


def memory_url() -> str:
    return f"memory://{uuid4().hex}"


def opened(url: str | Store, **options: Any) -> Writer:
    writer = Writer(url if isinstance(url, Store) else Store(url), **{"clock": lambda: START, **options})
    writer.open()
    return writer


def record(topic: str, partition: int, offset: int, event: Event, appended_at: float = START) -> Record:
    name = topics.in_space(topic, DEFAULT_SPACE)
    return Record(name, partition, offset, appended_at, events.key_of(event), events.encode(event))


def click(offset: int, user: str = "u", ts: float = 1e9, partition: int = 0, appended_at: float = START) -> Record:
    event = Interaction(event_id=f"{partition}-{offset}-{ts}", user_id=user, item_id="i", ts=ts)
    return record(topics.INTERACTIONS, partition, offset, event, appended_at)


def erasure(offset: int, user: str, erased_at: float, partition: int = 0) -> Record:
    return record(topics.ERASURES, partition, offset, Erasure(user_id=user, erased_at=erased_at))


def facts_of(user: str, ts: float) -> dict[str, Event]:
    """One fact of the user on every topic that names a user, and the edge that names none."""
    source = Source(topics.REVIEWS, 0, 0, START)
    return {
        topics.INTERACTIONS: Interaction(event_id="e", user_id=user, item_id="i", ts=ts),
        topics.REVIEWS: Review(review_id="r", user_id=user, item_id="i", ts=ts, text="good"),
        topics.OPINIONS: Opinions(
            review_id="r", user_id=user, item_id="i", ts=ts, extractor="x", extractor_version=1, content_hash="h",
            space="s", pairs=[], source=source,
        ),
        topics.IMPRESSIONS: Impression(
            request_id="q", user_id=user, ts=ts, item_ids=["i"], rung="full", model_version="v"
        ),
        topics.ITEM_EDGES: ReviewEdge(item_id="i", review_id="r", user_id=user, ts=ts, source=source),
    }  # fmt: skip


def blank(user: str, ts: float, erased_at: float) -> ReviewEdge:
    source = Source(topics.ERASURES, 0, 0, START)
    return ReviewEdge(item_id="i", review_id="r", user_id=user, ts=ts, erased_at=erased_at, source=source)


def edge(ts: float) -> InteractionEdge:
    source = Source(topics.INTERACTIONS, 0, 0, START)
    return InteractionEdge(item_id="i", ts=ts, user_hash=7, source=source)


def rows(url: str, wanted: Sequence[str] = topics.ARCHIVED) -> list[Archived]:
    return list(archive.read(url, wanted))


def places(found: Iterable[Archived | Record]) -> list[tuple[str, int, int]]:
    return [(topics.plain(row.topic, DEFAULT_SPACE), row.partition, row.offset) for row in found]
