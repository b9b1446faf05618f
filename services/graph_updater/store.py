"""The store behind graph_updater: a node's state, its vectors, and a few fields to find it by.

Two adapters stand behind one Protocol, and one test-suite holds for both: `store_edge.py` (Qdrant's engine in
this process) and `store_qdrant.py` (a Qdrant server). A collection is named `<kind>__<space>`.
"""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from shared.space import Space

KindName = Literal["users", "items"]
KINDS: Final[tuple[KindName, ...]] = ("users", "items")
VectorName = Literal["semantic", "opinion"]
Floats = NDArray[np.float32]

REVIEWERS: Final = "reviewers"  # of an item: the users whose reviews it shows
DUE: Final = "due"  # of an item: its version has not been announced yet
YES: Final = "yes"
NO: Final = ""
# Indexed as keywords, before any data.
INDEXED: Final[Mapping[KindName, tuple[str, ...]]] = {"users": (), "items": (REVIEWERS, DUE)}
_NAMESPACE: Final = uuid.UUID("6f1dd1a6-3d1c-5b0e-9c55-8f5b1b4f5f0a")
_MARKS: Final = 0xF << 76 | 0b11 << 62  # where a UUID says its version and variant
_VERSION_5: Final = 0x5 << 76 | 0b10 << 62


class Row(Struct, frozen=True):
    """A node to write. `fields` are what `find` looks at, "" takes one away. Vectors of length 0 are left out.

    Where vectors are None, the node's stay as they are, and so do the fields that are not named where `fields_stay`:
    then a store has to look at what is there before it writes.
    """

    id: str
    version: int
    state: bytes
    vectors: Mapping[VectorName, Floats] | None  # semantic (E,), opinion (A * c,)
    fields: Mapping[str, str | list[str]] = {}
    fields_stay: bool = False


class Stored(Struct, frozen=True):
    """A node as it was read."""

    version: int
    state: bytes


class Store(Protocol):
    """Every method raises Unavailable where the store does not answer; an acknowledged write survives SIGKILL."""

    exclusive: bool
    """No other process writes here: what was written last from here is the truth."""

    async def get(self, kind: KindName, ids: Sequence[str]) -> dict[str, Stored]:
        """Those of the nodes that are known, by id."""

    async def put(self, kind: KindName, rows: Sequence[Row]) -> dict[str, Stored]:
        """Write nodes. Returns, by id, what stands in place of those that were refused.

        A row is refused where a version not lower than its own is there, as after a rebalance left two writers:
        join the two states and write again. Ids are distinct.
        """

    async def revise(self, kind: KindName, name: VectorName, vectors: Mapping[str, tuple[int, Floats]]) -> None:
        """Put one vector of known nodes, none of length 0, in the place of what is there.

        With each the version that it was made of: where others write too, a node that has another one by now keeps
        its vector, which may be of an erasure.
        """

    async def vectors(self, kind: KindName, ids: Sequence[str], name: VectorName) -> dict[str, Floats]:
        """Unit vectors of those nodes that have one, by id."""

    async def similar(
        self, kind: KindName, vector: Floats, name: VectorName, k: int, without: str
    ) -> list[tuple[str, float]]:
        """The k nearest nodes by cosine, nearest first, without the node `without`."""

    async def find(self, kind: KindName, name: str, value: str) -> list[str]:
        """Ids of all nodes whose field is, or holds, the value; the field must be one of INDEXED."""

    async def clear(self, kind: KindName, name: str, versions: Mapping[str, int]) -> None:
        """Remove a field from those nodes whose version is still the one given."""

    async def count(self, kind: KindName) -> int: ...

    async def close(self) -> None: ...


def collection(kind: KindName, space: Space, prefix: str = "") -> str:
    return f"{prefix}{kind}__{space.name}"


def dimensions(space: Space) -> dict[VectorName, int]:
    """semantic: E; opinion: A attributes times c numbers."""
    return {"semantic": space.embedding_dim, "opinion": len(space.attributes) * space.opinion_dim}


def point_id(node_id: str) -> uuid.UUID:
    """Qdrant takes only UUIDs and integers; the id itself is kept beside the state."""
    # uuid.uuid5, which takes 12 us where this takes 3.
    digest = hashlib.sha1(_NAMESPACE.bytes + node_id.encode(), usedforsecurity=False).digest()
    return uuid.UUID(int=int.from_bytes(digest[:16]) & ~_MARKS | _VERSION_5)
