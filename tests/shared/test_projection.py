"""shared/projection.py: a space's projection is PCA, the same every time, and a wrong file is refused."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from shared import projection, space
from shared.projection import BadProjection
from shared.space import Attribute, Floats, Space

SPACE = Space("example", "a model", 6, 2, (Attribute("quality", ("build",)), Attribute("other", ())))


def cloud(rows: int = 200) -> Floats:
    """Points that vary most along axis 4, then along axis 1."""
    generator = np.random.default_rng(0)
    spread = np.array([0.1, 2.0, 0.1, 0.1, 5.0, 0.1])
    return (generator.normal(size=(rows, 6)) * spread + 3.0).astype(np.float32)


def write(root: Path, **tensors: Floats) -> None:
    (root / SPACE.name).mkdir()
    save_file(tensors, root / SPACE.name / projection.FILE)


def test_the_components_are_the_most_varied_directions_in_order() -> None:
    fitted = projection.fit(cloud(), 2)
    assert abs(fitted.components[0, 4]) > 0.99
    assert abs(fitted.components[1, 1]) > 0.99
    assert np.allclose(fitted.components @ fitted.components.T, np.eye(2), atol=1e-6)


def test_projected_points_are_centred_and_as_varied_as_singular_values_say() -> None:
    points = cloud()
    projected = projection.fit(points, 2)(points)
    singular = np.linalg.svd(points - points.mean(0), compute_uv=False)[:2]
    assert projected.shape == (200, 2)
    assert projected.dtype == np.float32
    assert np.abs(projected.mean(0)).max() < 1e-4
    assert np.allclose(np.linalg.norm(projected, axis=0), singular, rtol=1e-4)


def test_the_same_phrases_give_the_same_projection() -> None:
    first, second = projection.fit(cloud(), 2), projection.fit(cloud(), 2)
    assert np.array_equal(first.components, second.components)
    assert (first.components[np.arange(2), np.abs(first.components).argmax(1)] > 0).all()


def test_too_few_phrases_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        projection.fit(cloud(2), 2)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    (tmp_path / SPACE.name).mkdir()
    fitted = projection.fit(cloud(), 2)
    projection.save(fitted, SPACE, tmp_path)
    loaded = projection.load(SPACE, tmp_path)
    assert np.array_equal(loaded.mean, fitted.mean)
    assert np.array_equal(loaded.components, fitted.components)


ROWS = np.eye(2, 6, dtype=np.float32)
MEAN = np.zeros(6, np.float32)


@pytest.mark.parametrize(
    ("mean", "components", "says"),
    [
        (MEAN, np.eye(3, 6, dtype=np.float32), "shapes"),
        (np.zeros(5, np.float32), ROWS, "shapes"),
        (MEAN, ROWS.astype(np.float64), "float32"),
        (MEAN, ROWS * np.float32("nan"), "finite"),
        (MEAN, ROWS * 2, "orthonormal"),
        (MEAN, ROWS[[0, 0]], "orthonormal"),
    ],
)
def test_a_wrong_projection_is_refused_with_its_reason(
    tmp_path: Path, mean: Floats, components: Floats, says: str
) -> None:
    write(tmp_path, mean=mean, components=np.ascontiguousarray(components))
    with pytest.raises(BadProjection, match=says):
        projection.load(SPACE, tmp_path)


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadProjection, match="no projection"):
        projection.load(SPACE, tmp_path)
    write(tmp_path, something=MEAN)
    with pytest.raises(BadProjection, match="no projection"):
        projection.load(SPACE, tmp_path)
    (tmp_path / SPACE.name / projection.FILE).write_bytes(b"no tensors")
    with pytest.raises(BadProjection, match="no projection"):
        projection.load(SPACE, tmp_path)


def test_the_default_space_is_whole() -> None:
    default = space.load()
    projection.load(default)
    names = default.attribute_names
    terms = [term for attribute in default.attributes for term in attribute.terms]
    assert names[-1] == "other"
    assert len(set(names)) == len(names)
    assert len(set(terms)) == len(terms), "a term of two attributes would depend on their order"
    assert all(term == term.casefold().strip() for term in terms)


def test_polarity_is_spelled_out_in_what_is_embedded() -> None:
    texts = {projection.opinion_text("loud", polarity) for polarity in (-1, 0, 1)}
    assert len(texts) == 3
    assert all(text.startswith("loud") for text in texts)
