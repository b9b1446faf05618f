"""Texts to unit vectors: in the worker thread with the local model, or over HTTP."""

from collections.abc import Sequence
from typing import Protocol

from services.extractor.worker import Worker
from shared.embedding import Embedder
from shared.space import Floats


class Embeddings(Protocol):
    name: str  # of the model: must be what the space was made with
    dim: int  # E

    async def embed(self, texts: Sequence[str], max_tokens: int) -> Floats:
        """(N,) -> (N, E) float32 of unit length. Raises Unavailable when it may succeed later."""
        ...

    async def close(self) -> None:
        """Gives back what it holds open."""
        ...


class LocalEmbeddings:
    def __init__(self, embedder: Embedder, worker: Worker, name: str = "all-MiniLM-L6-v2") -> None:
        self.name = name
        self.dim = embedder.dim
        self._embedder = embedder
        self._worker = worker

    async def embed(self, texts: Sequence[str], max_tokens: int) -> Floats:
        return await self._worker.run(self._embedder.embed, texts, max_tokens)

    async def close(self) -> None:
        """Nothing is open: the worker is its owner's to stop."""
