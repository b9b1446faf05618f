"""What of a batch of records becomes rows, whose rows they are, and which users ask to be forgotten."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shared import events, topics
from shared.archive import Archived
from shared.events import Erasure, Event, Impression, Interaction, InvalidEvent, Opinions, Review, ReviewEdge


class Record(NamedTuple):
    """One record as it came from Kafka; appended_at in seconds since 1970."""

    topic: str  # as it is named outside of a space
    partition: int
    offset: int
    appended_at: float
    key: bytes | None
    value: bytes | None


@dataclass
class Sifted:
    """`erasures`: each with its partition; `skipped`: (topic, reason) -> how many do not decode."""

    rows: list[Archived] = field(default_factory=list)
    erasures: list[tuple[int, Erasure]] = field(default_factory=list)
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)


def sift(records: Sequence[Record]) -> Sifted:
    """Decode a batch. Whether a record is valid depends on it alone: its append time is the clock."""
    sifted = Sifted()
    for record in records:
        try:
            event = events.decode(topics.kind_of(record.topic), record.value, now=record.appended_at)
        except InvalidEvent as error:
            sifted.skipped[record.topic, error.reason] += 1
            continue
        if isinstance(event, Erasure):
            sifted.erasures.append((record.partition, event))
        sifted.rows.append(
            Archived(
                record.topic, record.partition, record.offset, record.appended_at, events.time_of(event),
                record.key, erasable_user(event), record.value or b"",
            )
        )  # fmt: skip
    return sifted


def erasable_user(event: Event) -> str | None:
    """The user whose erasure removes this event; None for what stays.

    An erasure stays, and so does the edge that blanks a review: they are what keeps it erased. An interaction
    edge holds a hash and no user.
    """
    if isinstance(event, ReviewEdge):
        return None if event.erased_at > 0.0 else event.user_id
    return event.user_id if isinstance(event, Interaction | Review | Opinions | Impression) else None


def join_erasures(erased: Mapping[str, float], erasures: Iterable[Erasure]) -> dict[str, float]:
    """user -> the newest time up to which their facts are ignored; only what is newer than in `erased`."""
    news: dict[str, float] = {}
    for erasure in erasures:
        if erasure.erased_at > max(erased.get(erasure.user_id, 0.0), news.get(erasure.user_id, 0.0)):
            news[erasure.user_id] = erasure.erased_at
    return news


def is_erased(row: Archived, erased: Mapping[str, float]) -> bool:
    return row.user_id is not None and row.ts <= erased.get(row.user_id, 0.0)
