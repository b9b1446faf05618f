import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events import Erasure, Event, Interaction, Opinions
from shared.graph.fold import edges_of, fold_item, fold_user, same_item, same_user
from shared.graph.state import ItemNode, UserState
from shared.models.dataset import Case, Catalogue, cases, items_before, read_log, windows
from tests.shared.models.worlds import SOURCE, SPACE, START, interaction, opinions, semantics


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Logs with many equal times, repeats, edits and erasures, in any order."""
    rng = random.Random(draw(st.integers(0, 10_000)))
    out: list[Event] = []
    for n in range(draw(st.integers(1, 40))):
        user, item, ts = f"u{rng.randrange(4)}", f"i{rng.randrange(6)}", START + rng.randrange(8)
        kind = rng.random()
        if kind < 0.6:
            out.append(interaction(user, item, ts, f"e{n}"))
        elif kind < 0.9:
            out.append(opinions(rng, user, item, ts))
        elif kind < 0.95:
            out.append(semantics(item, bytes(12), ts))
        else:
            out.append(Erasure(user_id=user, erased_at=ts))
    out += [rng.choice(out) for _ in range(rng.randrange(5))]
    rng.shuffle(out)
    return out


def everything(log_: list[Event]) -> list[Case]:
    return cases(read_log(log_, SPACE), -math.inf, math.inf)


@settings(max_examples=60, deadline=None)
@given(logs())
def test_a_case_is_the_fold_of_what_is_strictly_earlier_and_its_targets_are_new(log_: list[Event]) -> None:
    erased = {e.user_id: 0.0 for e in log_ if not isinstance(e, Erasure) and hasattr(e, "user_id")}
    for event in log_:
        if isinstance(event, Erasure):
            erased[event.user_id] = max(erased.get(event.user_id, 0.0), event.erased_at)
    for case in everything(log_):
        user_id = case.user.user_id
        earlier = [
            e
            for e in log_
            if isinstance(e, Interaction | Opinions) and e.user_id == user_id and erased[user_id] < e.ts < case.ts
        ]
        assert same_user(case.user, fold_user(UserState(user_id), earlier))
        now = {e.item_id for e in log_ if isinstance(e, Interaction) and e.user_id == user_id and e.ts == case.ts}
        assert set(case.targets) <= now
        assert not set(case.targets) & {slot.item_id for slot in case.user.interactions}


@settings(max_examples=40, deadline=None)
@given(logs(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(log_: list[Event], rng: random.Random) -> None:
    shuffled = list(log_)
    rng.shuffle(shuffled)
    a, b = everything(log_), everything(shuffled)
    assert [(c.ts, c.targets) for c in a] == [(c.ts, c.targets) for c in b]
    assert all(same_user(x.user, y.user) for x, y in zip(a, b, strict=True))


@settings(max_examples=40, deadline=None)
@given(logs(), st.integers(0, 8))
def test_facts_of_the_future_change_nothing_for_a_case_or_the_catalogue(log_: list[Event], at: int) -> None:
    end = START + at
    # An erasure is no fact of its time: what it covers is gone whenever it was asked for.
    kept = [e for e in log_ if isinstance(e, Erasure) or e.ts < end]  # type: ignore[union-attr]
    whole, short = read_log(log_, SPACE), read_log(kept, SPACE)
    a, b = cases(whole, -math.inf, end), cases(short, -math.inf, end)
    assert [(c.ts, c.targets) for c in a] == [(c.ts, c.targets) for c in b]
    assert all(same_user(x.user, y.user) for x, y in zip(a, b, strict=True))
    nodes_a, nodes_b = items_before(whole, end), items_before(short, end)
    assert [n.item_id for n in nodes_a] == [n.item_id for n in nodes_b]
    assert all(same_item(x, y) for x, y in zip(nodes_a, nodes_b, strict=True))


@settings(max_examples=30, deadline=None)
@given(logs(), st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_an_advancing_catalogue_is_the_fold_of_what_is_earlier(log_: list[Event], steps: list[int]) -> None:
    log = read_log(log_, SPACE)
    catalogue = Catalogue(log)
    for step in sorted(steps):
        catalogue.advance(START + step)
        expected = items_before(log, START + step)
        assert len(expected) == len(catalogue.nodes())
        assert all(same_item(x, y) for x, y in zip(expected, catalogue.nodes(), strict=True))


def test_a_catalogue_does_not_go_back() -> None:
    catalogue = Catalogue(read_log([interaction("u", "i", START)], SPACE))
    assert catalogue.advance(START + 1) == {"i"}
    with pytest.raises(ValueError, match="advances"):
        catalogue.advance(START)


def test_an_erased_users_facts_do_not_exist_for_items_either() -> None:
    fact = opinions(random.Random(0), "u", "i", START)
    kept = interaction("v", "i", START)
    log = read_log([interaction("u", "i", START), fact, kept, Erasure(user_id="u", erased_at=START)], SPACE)
    (node,) = items_before(log, math.inf)
    assert same_item(node, fold_item(ItemNode("i"), [edges_of(kept, SOURCE)]))
    assert log.times == [START]


def test_opinions_and_texts_of_another_space_are_passed_over() -> None:
    foreign = opinions(random.Random(0), "u", "i", START, space="other")
    log = read_log([foreign, semantics("i", bytes(12), space="other")], SPACE)
    assert not log.by_user
    assert not log.by_item


@settings(max_examples=30, deadline=None)
@given(logs(), st.integers(1, 6))
def test_windows_keep_every_case_in_order_and_never_part_one_time(log_: list[Event], count: int) -> None:
    found = everything(log_)
    parts = windows(found, count)
    assert [case for part in parts for case in part] == found
    assert len(parts) <= count
    for before, after in itertools.pairwise(parts):
        assert before[-1].ts < after[0].ts
