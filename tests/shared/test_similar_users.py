import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.similar_users import EdgeSimilar

Floats = NDArray[np.float32]


def clustered(users: int, dim: int = 16, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(2, users // 8), dim))
    points = centres[rng.integers(0, len(centres), users)] + 0.3 * rng.normal(size=(users, dim))
    return points.astype(np.float32)


def all_pairs(vectors: Floats) -> Floats:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity: Floats = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity


def test_the_neighbours_are_the_nearest_of_all_pairs_best_first() -> None:
    vectors = clustered(300)
    rows, similarity = EdgeSimilar()(vectors, 10)
    expected = -np.sort(-all_pairs(vectors), axis=1)[:, :10]
    assert np.allclose(similarity, expected, atol=1e-5)
    assert np.allclose(np.take_along_axis(all_pairs(vectors), rows, 1), expected, atol=1e-5)


def test_the_graph_index_finds_nearly_all_of_them() -> None:
    vectors = clustered(600)
    exact, _ = EdgeSimilar()(vectors, 10)
    found, _ = EdgeSimilar(exact_up_to=0)(vectors, 10)
    kept = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    assert np.mean(kept) > 9.5


@settings(max_examples=10, deadline=None)
@given(users=st.integers(0, 12), k=st.integers(0, 6), same=st.booleans())
def test_nobody_is_their_own_neighbour_and_what_is_missing_is_said(users: int, k: int, same: bool) -> None:
    vectors = np.ones((users, 8), np.float32) if same else clustered(users, 8)
    rows, similarity = EdgeSimilar()(vectors, k)
    assert rows.shape == similarity.shape == (users, k)
    assert not (rows == np.arange(users)[:, None]).any()
    assert ((rows >= 0).sum(1) == min(k, max(users - 1, 0))).all()
    assert (similarity[rows < 0] == 0).all()
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in rows)


def test_a_user_without_any_text_has_no_neighbour_and_is_none() -> None:
    vectors = clustered(20)
    vectors[7] = 0.0
    rows, _ = EdgeSimilar()(vectors, 19)
    assert (rows[7] == -1).all()
    assert not (rows == 7).any()
    assert ((np.delete(rows, 7, 0) >= 0).sum(1) == 18).all()


@pytest.mark.parametrize("exact_up_to", [30_000, 0])
def test_length_does_not_matter_but_direction(exact_up_to: int) -> None:
    vectors = np.array([[1, 0, 0], [9, 1, 0], [0, 1, 0], [0, 5, 1]], np.float32)
    rows, similarity = EdgeSimilar(exact_up_to)(vectors, 1)
    assert rows[:, 0].tolist() == [1, 0, 3, 2]
    assert similarity[0, 0] == pytest.approx(9 / np.sqrt(82), abs=1e-4)
