import random
from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared.events import Event, Opinions
from shared.experiments.pairs import with_pairs
from tests.shared.models.worlds import START, interaction, opinions


def facts(seed: int, reviews: int) -> list[Event]:
    rng = random.Random(seed)
    found: list[Event] = []
    for n in range(reviews):
        user, item, ts = f"u{n % 3}", f"i{n % 2}", START + n
        found += [interaction(user, item, ts, f"e{n}"), opinions(rng, user, item, ts, pairs=rng.randrange(4))]
    return found


def without_pairs(events: list[Event]) -> list[Event]:
    return [msgspec.structs.replace(e, pairs=[]) if isinstance(e, Opinions) else e for e in events]


def lists(events: list[Event]) -> list[str]:
    return [repr(event.pairs) for event in events if isinstance(event, Opinions)]


@given(st.integers(0, 10**6), st.integers(0, 12))
def test_shuffling_moves_whole_reviews_pairs_and_nothing_else_and_one_seed_moves_them_alike(seed: int, n: int) -> None:
    events = facts(seed, n)
    moved = list(with_pairs(events, "shuffled", seed))
    assert without_pairs(moved) == without_pairs(events)
    assert Counter(lists(moved)) == Counter(lists(events))
    assert moved == list(with_pairs(events, "shuffled", seed))


def test_shuffling_leaves_few_reviews_with_their_own_pairs() -> None:
    events = [event for event in facts(1, 200) if not isinstance(event, Opinions) or event.pairs]
    moved = lists(list(with_pairs(events, "shuffled", 0)))
    assert sum(one == other for one, other in zip(moved, lists(events), strict=True)) < 10


@given(st.integers(0, 10**6), st.integers(0, 12))
def test_without_pairs_all_else_stays_and_found_changes_nothing(seed: int, n: int) -> None:
    events = facts(seed, n)
    assert list(with_pairs(events, "none", seed)) == without_pairs(events)
    assert list(with_pairs(events, "found", seed)) == events
