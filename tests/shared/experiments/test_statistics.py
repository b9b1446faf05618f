import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.experiments.statistics import DRAWS, compare, holm, spread

Scores = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 5)), min_size=2, max_size=30
)  # first, second, user


def arrays(found: list[tuple[float, float, int]]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    first, second, users = zip(*found, strict=True)
    return np.array(first), np.array(second), list(users)


@settings(max_examples=40, deadline=None)
@given(Scores)
def test_swapping_the_models_changes_the_sign_and_nothing_else(found: list[tuple[float, float, int]]) -> None:
    first, second, users = arrays(found)
    one = compare({"a": first}, second, users, 200)["a"]
    other = compare({"a": second}, first, users, 200)["a"]
    assert other.difference == pytest.approx(-one.difference)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert other.p == one.p


@settings(max_examples=40, deadline=None)
@given(Scores, st.randoms(use_true_random=False))
def test_the_order_of_the_targets_does_not_matter(found: list[tuple[float, float, int]], rng) -> None:  # type: ignore[no-untyped-def]
    first, second, users = arrays(found)
    order = list(range(len(found)))
    rng.shuffle(order)
    one = compare({"a": first}, second, users, 200)["a"]
    other = compare({"a": first[order]}, second[order], [users[at] for at in order], 200)["a"]
    assert (other.difference, other.low, other.high) == pytest.approx((one.difference, one.low, one.high))
    assert other.p == one.p


def test_a_model_and_itself_do_not_differ() -> None:
    same = np.array([0.1, 0.5, 0.0, 1.0])
    found = compare({"a": same}, same, ["u", "u", "v", "w"])["a"]
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_a_difference_that_every_target_has_is_certain() -> None:
    worse = np.linspace(0, 0.5, 40)
    found = compare({"a": worse + 0.25}, worse, range(40))["a"]
    assert (found.difference, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.p == pytest.approx(1 / (DRAWS + 1))


def test_a_drawn_user_counts_with_all_targets() -> None:
    # One user with 3 targets and difference 1, one with a single target and difference 0: draws are 1, 3/4 or 0.
    first, second = np.array([1.0, 1.0, 1.0, 0.0]), np.zeros(4)
    found = compare({"a": first}, second, ["u", "u", "u", "v"])["a"]
    assert (found.difference, found.low, found.high) == (0.75, 0.0, 1.0)
    assert found.p == pytest.approx(0.25, abs=0.02)  # only (v, v) lies .75 away


def test_p_is_as_the_normal_distribution_gives_for_many_users() -> None:
    noise = np.random.default_rng(3).normal(0.05, 0.5, 500)
    found = compare({"a": noise}, np.zeros(500), range(500))["a"]
    z = noise.mean() / (noise.std() / math.sqrt(500))
    assert found.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.012)
    assert found.high - found.low == pytest.approx(2 * 1.96 * noise.std() / math.sqrt(500), rel=0.05)


def test_targets_of_one_user_are_no_independent_evidence() -> None:
    values = np.random.default_rng(5).normal(0.1, 0.3, 20)
    alone = compare({"a": values}, np.zeros(20), range(20))["a"]
    repeated = compare({"a": np.repeat(values, 30)}, np.zeros(600), np.repeat(np.arange(20), 30))["a"]
    assert repeated.p == pytest.approx(alone.p, abs=0.01)


def test_chance_is_found_significant_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(7)
    found = compare({str(n): rng.normal(0, 1, 60) for n in range(300)}, np.zeros(60), range(60), 999)
    assert 0.02 < np.mean([c.p < 0.05 for c in found.values()]) < 0.09


def test_holm_as_in_the_textbook() -> None:
    got = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert got == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_p_and_bonferroni_and_keeps_their_order(p: dict[str, float]) -> None:
    got = holm(p)
    for name in p:
        assert p[name] <= got[name] <= min(1.0, len(p) * p[name]) + 1e-15
    ordered = sorted(p, key=lambda name: p[name])
    assert all(got[a] <= got[b] for a, b in itertools.pairwise(ordered))


def test_one_fit_has_no_deviation() -> None:
    assert spread([0.5]) == (0.5, None)
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
