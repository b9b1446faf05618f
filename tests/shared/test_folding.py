"""A sample is the same for a seed, never larger than asked, fair to every id, and folds to what everything folds to."""

import random
from collections import Counter
from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared import folding
from shared.events import Event
from shared.folding import Chosen, Folding, Sample
from shared.graph import fold
from tests.shared.graph import histories

IDS = [f"node-{n}" for n in range(40)]
NODES = st.integers(0, 11).map(lambda n: f"node-{n}")
events = st.one_of(
    st.builds(lambda fact, node: msgspec.structs.replace(fact, user_id=node), histories.user_facts, NODES),
    st.builds(lambda fact, node: msgspec.structs.replace(fact, item_id=node), histories.item_facts, NODES),
)


def chosen_of(ids: Sequence[str], size: int, seed: int) -> set[str]:
    kept: Folding[object, None] = Folding(lambda state, facts: state, lambda node: node)  # type: ignore[type-var]
    sample = Sample(size, seed, kept)
    for node in ids:
        sample.add(node, None)
    kept.end()
    return set(kept.states)


@given(st.lists(events, max_size=120), st.integers(0, 6), st.integers(0, 6), st.integers(0, 99))
def test_a_sample_folds_to_what_everything_folds_to(log: list[Event], users: int, items: int, seed: int) -> None:
    all_users, all_items, some_users, some_items = folding.users(), folding.items(), folding.users(), folding.items()
    sampled = Sample(users, seed, some_users), Sample(items, seed, some_items)
    for event in log:
        folding.give(event, all_users, all_items)
        folding.give(event, *sampled)
    for one in (all_users, all_items, some_users, some_items):
        one.end()
    assert len(some_users.states) == min(users, len(all_users.states))
    assert len(some_items.states) == min(items, len(all_items.states))
    assert all(fold.same_user(state, all_users.states[node]) for node, state in some_users.states.items())
    assert all(fold.same_item(state, all_items.states[node]) for node, state in some_items.states.items())


@given(st.lists(st.sampled_from(IDS)), st.integers(0, 50), st.integers(-5, 5), st.randoms(use_true_random=False))
def test_who_is_chosen_depends_on_the_seed_and_the_ids_alone(
    ids: list[str], size: int, seed: int, chance: random.Random
) -> None:
    chosen = chosen_of(ids, size, seed)
    again = ids * 2
    chance.shuffle(again)
    assert chosen == chosen_of(again, size, seed)
    assert len(chosen) == min(size, len(set(ids)))
    assert chosen <= set(ids)


def test_every_id_can_be_chosen_and_about_as_often() -> None:
    rounds, size = 400, 10
    counts = Counter(node for seed in range(rounds) for node in chosen_of(IDS, size, seed))
    expected = rounds * size / len(IDS)
    assert set(counts) == set(IDS)
    assert all(0.5 * expected < count < 1.5 * expected for count in counts.values())


def test_only_facts_of_chosen_nodes_are_folded() -> None:
    users = folding.users()
    chosen = Chosen({"a"}, users)
    for node in ("a", "b"):
        chosen.add(node, histories.Erasure(user_id=node, erased_at=histories.BASE))
    users.end()
    assert set(users.states) == {"a"}
