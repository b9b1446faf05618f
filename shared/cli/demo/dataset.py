"""What the demo streams: a file of reviews, or a generated catalogue with known tastes."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared import topics
from shared.events import Interaction, Item, Review
from shared.local import reviews
from shared.local.catalogue import Catalogue
from shared.local.ledger import Sent, topic_of

KEPT_TEXTS: Final = 200


@dataclass(frozen=True)
class DataSet:
    """`read` may be called once for each pass. `catalogue` is there where the tastes are known."""

    name: str
    total: int
    read: Callable[[], Iterator[Sent]]
    catalogue: Catalogue | None = None


@dataclass
class Census:
    """What is remembered of a data set while it passes: enough to choose users and items to show."""

    sent: Counter[str] = field(default_factory=Counter)  # by topic
    interactions_of: Counter[str] = field(default_factory=Counter)  # by user
    reviewed: dict[str, str] = field(default_factory=dict)  # user -> newest reviewed item, of the order sent
    titles: dict[str, str] = field(default_factory=dict)  # item -> title
    items: dict[str, None] = field(default_factory=dict)  # met by anyone, in the order sent
    praise: list[Review] = field(default_factory=list)  # some reviews with five stars and a text

    def passing(self, events: Iterator[Sent]) -> Iterator[Sent]:
        """The same events, noted."""
        for event in events:
            self._note(event)
            yield event

    def _note(self, event: Sent) -> None:
        self.sent[topic_of(event)] += 1
        if isinstance(event, Item):
            self.titles[event.item_id] = event.title
            return
        self.items[event.item_id] = None
        if isinstance(event, Interaction):
            self.interactions_of[event.user_id] += 1
        elif event.text.strip():
            self.reviewed[event.user_id] = event.item_id
            if event.rating >= 5.0 and len(self.praise) < KEPT_TEXTS:
                self.praise.append(event)

    @property
    def interactions(self) -> int:
        return self.sent[topics.INTERACTIONS]

    @property
    def reviews(self) -> int:
        return self.sent[topics.REVIEWS]

    def spread_of_users(self, count: int) -> list[str]:
        """Users with a review, from those with most events to those with fewest: head and long tail alike."""
        ranked = sorted(self.reviewed, key=lambda user: (-self.interactions_of[user], user))
        if len(ranked) <= count:
            return ranked
        return [ranked[round(place * (len(ranked) - 1) / (count - 1))] for place in range(count)]


def of_file(path: Path, items: Path | None, on_bad: reviews.OnBad) -> DataSet:
    """Every line of `path` as an interaction and a review; items first, where there is metadata."""

    def read() -> Iterator[Sent]:
        if items is not None:
            yield from reviews.read_items(items, on_bad)
        for interaction, review in reviews.read_reviews(path, on_bad):
            yield interaction
            yield review

    total = 2 * reviews.count_lines(path) + (reviews.count_lines(items) if items is not None else 0)
    return DataSet(path.name, total, read)


def of_catalogue(catalogue: Catalogue) -> DataSet:
    """The generated catalogue: its items, then its events in time order."""

    def read() -> Iterator[Sent]:
        yield from catalogue.items
        yield from catalogue.events

    return DataSet("generated catalogue", len(catalogue.items) + len(catalogue.events), read, catalogue)
