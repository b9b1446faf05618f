"""The opinion projection of a space: phrase embeddings (E) to opinion vectors (c), by PCA.

Fitted once, saved beside the space's definition, frozen: edges projected with two projections cannot be
compared. FineRec (SIGIR 2024) reduces its opinion embeddings in the same way.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as serialise

from shared.space import SPACES, Floats, Space

FILE: Final = "projection.safetensors"
ORTHONORMAL_TOLERANCE: Final = 1e-4


_CUE: Final = {-1: ": negative", 0: "", 1: ": positive"}


def opinion_text(phrase: str, polarity: int) -> str:
    """What is embedded for an opinion. Its polarity is spelled out: to a sentence embedding "not loud" is close
    to "loud", and what a user complains of must not lie beside what another praises.
    """
    return phrase + _CUE[polarity]


class BadProjection(Exception):
    """The space's projection is missing or is not one; says which file and what is wrong."""


@dataclass(frozen=True)
class Projection:
    mean: Floats  # (E,)
    components: Floats  # (c, E), orthonormal rows, the most varied direction first

    def __call__(self, embeddings: Floats) -> Floats:
        """(N, E) -> (N, c) float32; not of unit length: shared.space.quantise scales it."""
        return np.asarray((embeddings - self.mean) @ self.components.T, np.float32)


def fit(embeddings: Floats, c: int) -> Projection:
    """PCA of (N, E) unit vectors. Signs are fixed (the largest weight of a row is positive), so that the same
    input gives the same file. Raises ValueError for fewer than c + 1 rows.
    """
    if len(embeddings) <= c:
        raise ValueError(f"{len(embeddings)} phrases are too few for {c} components")
    wide = embeddings.astype(np.float64)
    mean = wide.mean(axis=0)
    centred = wide - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)  # ascending
    rows = vectors.T[::-1][:c]
    signs = np.sign(rows[np.arange(c), np.abs(rows).argmax(axis=1)])
    return Projection(mean.astype(np.float32), np.ascontiguousarray(rows * signs[:, None], np.float32))


def save(projection: Projection, space: Space, root: Path = SPACES) -> Path:
    """Writes the space's projection and answers where."""
    path = root / space.name / FILE
    tensors = {"mean": projection.mean, "components": np.ascontiguousarray(projection.components)}
    path.write_bytes(serialise(tensors, metadata={"space": space.name, "embedding": space.embedding}))
    return path


def load(space: Space, root: Path = SPACES) -> Projection:
    """Reads and checks the space's projection: names, shapes, finite numbers, orthonormal rows.

    Raises BadProjection.
    """
    path = root / space.name / FILE
    try:
        tensors = load_file(path)
        projection = Projection(tensors["mean"], tensors["components"])
    except (OSError, SafetensorError, KeyError) as error:
        raise BadProjection(f"{path} is no projection: {error}") from error
    _check(projection, space, path)
    return projection


def _check(projection: Projection, space: Space, path: Path) -> None:
    mean, components = projection.mean, projection.components
    expected = (space.opinion_dim, space.embedding_dim)
    if mean.shape != expected[1:] or components.shape != expected:
        raise BadProjection(f"{path} has shapes {mean.shape} and {components.shape}; the space needs {expected}")
    if mean.dtype != np.float32 or components.dtype != np.float32:
        raise BadProjection(f"{path} is not of float32 numbers")
    if not (np.isfinite(mean).all() and np.isfinite(components).all()):
        raise BadProjection(f"{path} has numbers that are not finite")
    if np.abs(components @ components.T - np.eye(expected[0])).max() > ORTHONORMAL_TOLERANCE:
        raise BadProjection(f"{path}: the components' rows are not orthonormal")
