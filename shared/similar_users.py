"""Users alike, for self-distillation: from the vector index that the project runs with, Qdrant's own, in this process.

The engine is opened in a temporary folder, filled, asked in batches and thrown away. It scans exactly up to
`exact_up_to` users (25,000 x 384 numbers take half a minute on two cores), so that every run finds the same
neighbours; beyond that it builds its graph index, whose cost grows with U log U.
"""

import tempfile
from typing import Any, Final

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

NAME: Final = "semantic"
UPSERT_POINTS: Final = 2000
ASKED_AT_ONCE: Final = 256
INDEX_LINKS: Final = 16  # of a point in the graph index
INDEX_BUILD: Final = 100  # candidates looked at for a point's links


class EdgeSimilar:
    """`shared.models.fitting.Similar`: see the module."""

    def __init__(self, exact_up_to: int = 30_000, candidates: int = 128) -> None:
        """`candidates`: how many the graph index looks at for a query; it is not read below `exact_up_to`."""
        self._exact_up_to = exact_up_to
        self._candidates = candidates

    def __call__(self, vectors: Any, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Vectors (U, E) -> rows (U, k), -1 where there are fewer, and cosine similarities (U, k), 0 there.

        A zero vector has no direction: it is nobody's neighbour and has none.
        """
        held = np.ascontiguousarray(vectors, np.float32)
        rows = np.full((len(held), k), -1, np.int64)
        similarity = np.zeros((len(held), k), np.float32)
        placed = np.flatnonzero(np.abs(held).sum(1) > 0)
        if len(placed) < 2 or not k:
            return rows, similarity
        exact = len(placed) <= self._exact_up_to
        with tempfile.TemporaryDirectory(prefix="similar-") as folder:
            shard = _filled(folder, held, placed, exact)
            try:
                for start in range(0, len(placed), ASKED_AT_ONCE):
                    asked = placed[start : start + ASKED_AT_ONCE]
                    for user, found in zip(asked, self._ask(shard, held[asked], k + 1, exact), strict=True):
                        others = [point for point in found if int(point.id) != user][:k]
                        rows[user, : len(others)] = [int(point.id) for point in others]
                        similarity[user, : len(others)] = [point.score for point in others]
            finally:
                shard.close()
        return rows, similarity

    def _ask(self, shard: Any, vectors: NDArray[np.float32], k: int, exact: bool) -> Any:
        # One batch, without a filter that would differ between its queries: they share one pass over the vectors.
        params = edge.SearchParams(exact=True) if exact else edge.SearchParams(hnsw_ef=max(self._candidates, k))
        requests = [
            edge.QueryRequest(k, query=edge.Query.Nearest(vector.tolist(), NAME), params=params) for vector in vectors
        ]
        return shard.query_batch(edge.QueryBatchRequest(requests))


def _filled(folder: str, vectors: NDArray[np.float32], placed: NDArray[np.int64], exact: bool) -> Any:
    """A shard of the rows `placed`, each under its row number."""
    params: Any = edge.EdgeVectorParams(vectors.shape[1], edge.Distance.Cosine)
    config = edge.EdgeConfig(
        vectors={NAME: params},
        wal_enabled=False,  # nobody opens it again
        hnsw_config=None if exact else edge.HnswIndexConfig(INDEX_LINKS, INDEX_BUILD, 10),
        optimizers=None if exact else edge.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1),
    )
    shard = edge.EdgeShard.create(folder, config)
    for start in range(0, len(placed), UPSERT_POINTS):
        points = [
            edge.Point(int(row), {NAME: vectors[row].tolist()}, {}) for row in placed[start : start + UPSERT_POINTS]
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    if not exact:
        shard.optimize()
    return shard
