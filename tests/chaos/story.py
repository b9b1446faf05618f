"""A stream of events as bad as producers make it: repeated, out of order, days late, edited; and reproducible."""

import random
from collections.abc import Iterator
from typing import Final

from shared.events import Interaction, Item, Review
from shared.local.ledger import Sent

USERS, ITEMS = 400, 120
BASE: Final = 1_600_000_000.0
DAY: Final = 86_400.0
REVIEW_SHARE: Final = 0.02  # the rules read some 50 a second
EDIT_SHARE: Final = 0.2  # of reviews: an earlier one again, with another text
REPEAT_SHARE: Final = 0.1
LATE_SHARE: Final = 0.1
WORDS: Final = ("The neck feels great.", "The strings break fast.", "Awful sound, but it looks nice.", "Too expensive.")


def story(count: int, seed: int) -> Iterator[Sent]:
    """`count` events; the items' descriptions first."""
    rng = random.Random(seed)
    for number in range(min(ITEMS, count)):
        yield Item(item_id=f"i{number}", ts=BASE, title=f"Guitar {number}", description="A guitar with a maple neck.")
    recent: list[Sent] = []
    reviews: list[Review] = []
    for number in range(ITEMS, count):
        event = _event(number, rng, recent, reviews)
        recent = [*recent[-200:], event]
        yield event


def _event(number: int, rng: random.Random, recent: list[Sent], reviews: list[Review]) -> Sent:
    if recent and rng.random() < REPEAT_SHARE:
        return rng.choice(recent)
    ts = BASE + number + rng.uniform(-50, 50) - (rng.uniform(1, 9) * DAY if rng.random() < LATE_SHARE else 0.0)
    if rng.random() >= REVIEW_SHARE:
        user, item = f"u{rng.randrange(USERS)}", f"i{rng.randrange(ITEMS)}"
        return Interaction(event_id=f"e{number}", user_id=user, item_id=item, ts=ts)
    review = _review(number, ts, rng, reviews)
    reviews.append(review)
    return review


def _review(number: int, ts: float, rng: random.Random, reviews: list[Review]) -> Review:
    text = f"{rng.choice(WORDS)} ({number})"
    if reviews and rng.random() < EDIT_SHARE:
        old = rng.choice(reviews)
        return Review(review_id=old.review_id, user_id=old.user_id, item_id=old.item_id, ts=ts, text=text, rating=2.0)
    user, item = f"u{rng.randrange(USERS)}", f"i{rng.randrange(ITEMS)}"
    return Review(review_id=f"r{number}", user_id=user, item_id=item, ts=ts, text=text, rating=4.0)
