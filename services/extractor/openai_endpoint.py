"""One account at one OpenAI-compatible endpoint: the client, and what is shared by all who call it."""

from typing import Any

from openai import AsyncOpenAI
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from services.extractor import costs
from services.extractor.calls import Calls
from services.extractor.costs import Usage
from services.extractor.settings import OpenAISettings


class Endpoint:
    def __init__(self, settings: OpenAISettings) -> None:
        self._client = AsyncOpenAI(
            base_url=settings.base_url,
            api_key=settings.api_key.get_secret_value() or "none",  # a server of one's own asks for none
            timeout=None,  # these two are the work of Calls
            max_retries=0,
        )
        self._settings = settings
        self._calls = Calls(settings)

    # Not `chat.completions.create`: it walks over schema and messages of every request for a third of its time.

    async def complete(self, asked: dict[str, Any]) -> ChatCompletion:
        """The answer of the model. Raises NothingUsable, Unavailable."""
        answer = await self._calls(lambda: self._client.post("/chat/completions", body=asked, cast_to=ChatCompletion))
        self._count(self._settings.model, costs.usage_of_completion(answer))
        return answer

    async def embed(self, asked: dict[str, Any]) -> CreateEmbeddingResponse:
        """The answer of the embedding model. Raises NothingUsable, Unavailable."""
        answer = await self._calls(
            lambda: self._client.post("/embeddings", body=asked, cast_to=CreateEmbeddingResponse)
        )
        self._count(self._settings.embedding_model, costs.usage_of_embeddings(answer))
        return answer

    async def close(self) -> None:
        """May be called by each who shares it."""
        await self._client.close()

    def _count(self, model: str, usage: Usage | None) -> None:
        if usage is not None:
            costs.count(model, self._settings.prices.get(model), usage)
