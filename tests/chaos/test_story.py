"""The story is what it says: reproducible, and as bad as producers make it."""

from collections import Counter
from itertools import pairwise

from shared.events import Interaction, Item, Review
from shared.local.ledger import id_of
from tests.chaos.story import ITEMS, story


def test_a_story_is_the_same_for_a_seed_and_another_for_another() -> None:
    assert list(story(2000, 1)) == list(story(2000, 1))
    assert list(story(2000, 1)) != list(story(2000, 2))


def test_a_story_has_repeats_late_events_and_edits() -> None:
    told = list(story(20_000, 3))
    assert [type(event) for event in told[:ITEMS]] == [Item] * ITEMS
    clicks = Counter(id_of(event) for event in told if isinstance(event, Interaction))
    assert sum(count - 1 for count in clicks.values()) > 1000, "the same event again"
    texts: dict[str, set[str]] = {}
    for event in told:
        if isinstance(event, Review):
            texts.setdefault(event.review_id, set()).add(event.text)
    assert any(len(of_review) > 1 for of_review in texts.values()), "edits"
    times = [event.ts for event in told[ITEMS:]]
    assert min(later - earlier for earlier, later in pairwise(times)) < -86_400, "days late"
