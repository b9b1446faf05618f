"""shared/models/diversity.py: both methods are their definitions, and no limit is ever broken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.models import diversity
from shared.models.diversity import Floats, Limits, Method


@st.composite
def pools(draw: st.DrawFn) -> tuple[Floats, Floats, float, int]:
    """Relevance (P,) from the best on, unit vectors (P, d), a strength, and a k."""
    count, dim = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    numbers = np.random.default_rng(draw(st.integers(0, 10_000)))
    vectors = diversity.unit(numbers.normal(size=(count, dim)))
    scores = np.sort(numbers.normal(size=count))[::-1]
    return diversity.relevance(scores), vectors, draw(st.floats(0.05, 0.95)), draw(st.integers(1, 14))


def mmr_by_definition(relevance: Floats, vectors: Floats, strength: float, k: int) -> list[int]:
    chosen = [0]
    while len(chosen) < min(k, len(relevance)):
        left = [at for at in range(len(relevance)) if at not in chosen]
        worth = [
            (1 - strength) * relevance[at] - strength * max(float(vectors[at] @ vectors[c]) for c in chosen)
            for at in left
        ]
        chosen.append(left[int(np.argmax(worth))])
    return chosen


def objective(relevance: Floats, vectors: Floats, strength: float, chosen: list[int]) -> float:
    """(1 - strength) sum of relevance + strength log det S."""
    some = vectors[chosen]
    _, log_det = np.linalg.slogdet((1.0 + some @ some.T) / 2.0)
    return float((1 - strength) * relevance[chosen].sum() + strength * log_det)


@settings(deadline=None, max_examples=200)
@given(pools())
def test_mmr_is_its_definition(pool: tuple[Floats, Floats, float, int]) -> None:
    relevance, vectors, strength, k = pool
    greedy = diversity.greedy("mmr", relevance, vectors, strength)
    found = diversity.choose(greedy, k, diversity.no_limits(len(relevance)))
    assert found == mmr_by_definition(relevance, vectors, strength, k)


@settings(deadline=None, max_examples=200)
@given(pools())
def test_each_step_of_dpp_adds_the_most_to_relevance_and_log_determinant(
    pool: tuple[Floats, Floats, float, int],
) -> None:
    relevance, vectors, strength, k = pool
    greedy = diversity.greedy("dpp", relevance, vectors, strength)
    found = diversity.choose(greedy, min(k, vectors.shape[1]), diversity.no_limits(len(relevance)))
    for step, at in enumerate(found):
        left = [other for other in range(len(relevance)) if other not in found[:step]]
        worth = [objective(relevance, vectors, strength, [*found[:step], other]) for other in left]
        assert worth[left.index(at)] == pytest.approx(max(worth), abs=1e-4)


@settings(deadline=None, max_examples=200)
@given(pools(), st.sampled_from(["mmr", "dpp"]), st.integers(0, 3), st.integers(0, 3))
def test_limits_hold_and_every_candidate_is_taken_once(
    pool: tuple[Floats, Floats, float, int], method: Method, groups: int, limit: int
) -> None:
    relevance, vectors, strength, k = pool
    member = np.random.default_rng(k).random((len(relevance), groups)) < 0.5
    greedy = diversity.greedy(method, relevance, vectors, strength)
    found = diversity.choose(greedy, k, Limits(member, np.full(groups, limit)))
    assert len(set(found)) == len(found) <= k
    assert (member[found].sum(axis=0) <= limit).all()
    if len(found) < min(k, len(relevance)):  # whatever else is left would break a limit
        others = [at for at in range(len(relevance)) if at not in found]
        assert all((member[[*found, at]].sum(axis=0) > limit).any() for at in others)


@settings(deadline=None, max_examples=100)
@given(pools(), st.integers(0, 3), st.integers(0, 3))
def test_in_order_is_choosing_without_strength(
    pool: tuple[Floats, Floats, float, int], groups: int, limit: int
) -> None:
    relevance, vectors, _, k = pool
    member = np.random.default_rng(k).random((len(relevance), groups)) < 0.5
    left = np.full(groups, limit)
    expected = diversity.choose(diversity.greedy("mmr", relevance, vectors, 0.0), k, Limits(member, left))
    assert diversity.in_order(k, Limits(member, left)) == expected


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_no_strength_is_the_order_of_relevance_and_full_strength_still_begins_with_the_best(method: Method) -> None:
    numbers = np.random.default_rng(0)
    vectors = diversity.unit(numbers.normal(size=(20, 4)))
    relevance = np.linspace(1.0, 0.0, 20)
    free = diversity.no_limits(20)
    assert diversity.choose(diversity.greedy(method, relevance, vectors, 0.0), 20, free) == list(range(20))
    full = diversity.choose(diversity.greedy(method, relevance, vectors, 1.0), 20, diversity.no_limits(20))
    assert full[0] == 0
    assert sorted(full) == list(range(20))


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_a_twin_of_what_is_chosen_comes_after_what_is_unlike_it(method: Method) -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    greedy = diversity.greedy(method, np.array([1.0, 0.9, 0.0]), vectors, 0.7)
    assert diversity.choose(greedy, 3, diversity.no_limits(3)) == [0, 2, 1]


def test_the_relevance_of_equal_scores_is_0_and_of_others_from_0_to_1() -> None:
    assert diversity.relevance(np.array([2.0, 2.0])).tolist() == [0.0, 0.0]
    assert diversity.relevance(np.array([3.0, 2.0, 1.0])).tolist() == [1.0, 0.5, 0.0]
    assert diversity.relevance(np.zeros(0)).tolist() == []


def test_unlikeness_is_the_mean_over_all_pairs() -> None:
    vectors = diversity.unit(np.random.default_rng(3).normal(size=(5, 3)))
    pairs = [1 - float(vectors[a] @ vectors[b]) for a in range(5) for b in range(a)]
    assert diversity.unlikeness(vectors) == pytest.approx(sum(pairs) / 10)
    assert diversity.unlikeness(vectors[:1]) == 0.0
