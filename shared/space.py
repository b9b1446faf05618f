"""A space: embedding model + opinion projection + attribute set, named and immutable.

The files of a space lie in shared/spaces/<name>/: space.json (this class) and projection.safetensors
(`mean` (E,), `components` (c, E)). A bundle names its space; collections in the store are named after it.
"""

from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

SPACES: Final = Path(__file__).parent / "spaces"
DEFAULT_SPACE: Final = "minilm-general-v1"
SCALE: Final = 127.0

Floats = NDArray[np.float32]


class Attribute(Struct, frozen=True):
    """One attribute of the domain, and the words that reviews use for it."""

    name: str
    terms: tuple[str, ...]


class Space(Struct, frozen=True):
    name: str
    embedding: str  # name of the embedding model, for the operator; its path or URL is a setting
    embedding_dim: int  # E
    opinion_dim: int  # c
    attributes: tuple[Attribute, ...]  # the last is "other": what fits no named one

    @property
    def attribute_names(self) -> tuple[str, ...]:
        return tuple(attribute.name for attribute in self.attributes)


def load(name: str = DEFAULT_SPACE, root: Path = SPACES) -> Space:
    """Read a space's definition.

    Raises FileNotFoundError with the path where there is none of that name, ValueError for one of another name, as in
    a copied folder: topics are named after the one, collections after the other.
    """
    path = root / name / "space.json"
    space = msgspec.json.decode(path.read_bytes(), type=Space)
    if space.name != name:
        raise ValueError(f"{path} is of a space called {space.name!r}; give it the name of its folder")
    return space


def quantise(vectors: Floats) -> list[bytes]:
    """Unit vectors (N, d) -> N byte strings of d int8 numbers. A zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return [row.tobytes() for row in np.rint(unit * SCALE).astype(np.int8)]


def dequantise(data: bytes) -> Floats:
    """d int8 numbers -> float32 (d,), of length about 1."""
    return np.frombuffer(data, dtype=np.int8).astype(np.float32) / SCALE
