"""As LocalEmbeddings, over HTTP."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from services.extractor.findings import NothingUsable
from services.extractor.openai_endpoint import Endpoint
from services.extractor.redaction import Redaction
from services.extractor.settings import OpenAISettings
from shared.errors import Unavailable
from shared.space import Floats

TEXTS_AT_ONCE: Final = 256
CHARS_A_TOKEN: Final = 4  # about; only bounds what is sent


class OpenAIEmbeddings:
    """The endpoint shortens its vectors to `dimensions`."""

    def __init__(self, endpoint: Endpoint, settings: OpenAISettings, redaction: Redaction, dim: int) -> None:
        self.name = settings.embedding_model
        self.dim = dim
        self._endpoint = endpoint
        self._redaction = redaction

    async def embed(self, texts: Sequence[str], max_tokens: int) -> Floats:
        shown = await self._redaction([text[: max_tokens * CHARS_A_TOKEN] for text in texts])
        sent = [text or " " for text in shown]
        parts = [await self._part(sent[i : i + TEXTS_AT_ONCE]) for i in range(0, len(sent), TEXTS_AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    async def close(self) -> None:
        await self._endpoint.close()

    async def _part(self, texts: list[str]) -> Floats:
        try:
            answer = await self._endpoint.embed(
                {"model": self.name, "input": texts, "dimensions": self.dim, "encoding_format": "float"}
            )
        except NothingUsable as error:  # no text of ours is at fault, so the endpoint is
            raise Unavailable(f"the embeddings endpoint does not take our request: {error.reason}") from error
        rows = sorted(answer.data or [], key=lambda row: row.index)
        if [len(row.embedding) for row in rows] != [self.dim] * len(texts):
            raise Unavailable(f"the endpoint's embeddings are not {len(texts)} vectors of {self.dim} numbers")
        vectors = np.asarray([row.embedding for row in rows], np.float32)
        unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit
