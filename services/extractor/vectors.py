"""What travels in events: int8 vectors in the space, of opinion phrases (c) and of texts (E)."""

import time
from collections.abc import Sequence
from typing import Final

from services.extractor import metrics
from services.extractor.cache import Cache
from services.extractor.embeddings import Embeddings
from services.extractor.remembered import Remembered
from shared.events import content_hash
from shared.projection import Projection
from shared.space import Floats, quantise

PHRASE_TOKENS: Final = 32


class Vectors:
    def __init__(
        self, embeddings: Embeddings, projection: Projection, *, cached_phrases: int, cached_texts: int
    ) -> None:
        self._embeddings = embeddings
        self._projection = projection
        self._texts: Cache[str, bytes] = Cache(cached_texts)
        self.opinions = Remembered(
            "phrases", Cache[str, bytes](cached_phrases), self._opinions
        )  # phrases -> c int8 numbers each

    async def phrases(self, phrases: Sequence[str]) -> Floats:
        """(N, E): the embeddings themselves, not kept."""
        return await self._embed("phrases", phrases, PHRASE_TOKENS)

    async def texts(self, texts: Sequence[str], max_tokens: int) -> list[bytes]:
        """E int8 numbers each; equal texts are embedded once."""
        keys = [content_hash(text, str(max_tokens)) for text in texts]
        text_of = dict(zip(keys, texts, strict=True))

        async def compute(unknown: Sequence[str]) -> list[bytes]:
            return quantise(await self._embed("texts", [text_of[key] for key in unknown], max_tokens))

        return await Remembered("texts", self._texts, compute)(keys)

    async def _opinions(self, phrases: Sequence[str]) -> list[bytes]:
        return quantise(self._projection(await self.phrases(phrases)))

    async def _embed(self, kind: str, texts: Sequence[str], max_tokens: int) -> Floats:
        started = time.perf_counter()
        vectors = await self._embeddings.embed(texts, max_tokens)
        metrics.EMBEDDING_SECONDS.labels(kind).observe(time.perf_counter() - started)
        return vectors
