"""One account at one OpenAI-compatible endpoint: the client, and what is shared by all who call it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import openai
from openai import AsyncOpenAI, DefaultAioHttpClient
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from services.extractor import costs, metrics
from services.extractor.budget import Budget, OverBudget, Reserved
from services.extractor.calls import Calls
from services.extractor.costs import Usage
from services.extractor.openai_api import is_free
from services.extractor.settings import OpenAISettings

R = TypeVar("R")


class Endpoint:
    def __init__(self, settings: OpenAISettings, budget: Budget | None = None) -> None:
        """With a budget every model that is called must have a price."""
        self.client = AsyncOpenAI(
            base_url=settings.base_url,
            api_key=settings.api_key.get_secret_value() or "none",  # a server of one's own asks for none
            timeout=None,  # these two are ours
            max_retries=0,
            # With the usual one every call looks at every open connection, which was a third of what a call costs us.
            http_client=DefaultAioHttpClient(),
        )
        self.settings = settings
        self.budget = budget
        self.calls = Calls(settings)

    # Not `chat.completions.create`: it walks over schema and messages of every request for a third of its time.

    async def complete(self, asked: dict[str, Any]) -> ChatCompletion:
        """The answer of the model. Raises NothingUsable, OverBudget, Unavailable."""
        model, most = self.settings.model, most_usage(asked, self.settings)

        async def request() -> ChatCompletion:
            return await self.client.post("/chat/completions", body=asked, cast_to=ChatCompletion)

        return await self.calls(lambda: self._paid(model, most, request, costs.usage_of_completion))

    async def embed(self, asked: dict[str, Any]) -> CreateEmbeddingResponse:
        """The answer of the embedding model. Raises NothingUsable, OverBudget, Unavailable."""
        model = self.settings.embedding_model
        most = Usage(embedding=most_tokens(asked))

        async def request() -> CreateEmbeddingResponse:
            return await self.client.post("/embeddings", body=asked, cast_to=CreateEmbeddingResponse)

        return await self.calls(lambda: self._paid(model, most, request, costs.usage_of_embeddings))

    async def close(self) -> None:
        """May be called by each who shares it."""
        await self.client.close()
        if self.budget is not None:
            self.budget.close()

    async def _paid(
        self, model: str, most: Usage, request: Callable[[], Awaitable[R]], usage_of: Callable[[R], Usage | None]
    ) -> R:
        """One try. One whose usage is not known is taken to have cost the most that it can have."""
        reserved = await self._reserved(model, most)
        used: Usage | None = None
        try:
            # The client's own timeout is between two bytes: an endpoint that drips would hold the call for ever.
            async with asyncio.timeout(self.settings.timeout_seconds):
                answer = await request()
            used = usage_of(answer)
        except openai.OpenAIError as error:
            used = Usage() if is_free(error) else None
            raise
        finally:
            if self.budget is not None and reserved is not None:
                usd = reserved.usd if used is None else costs.cost(self.settings.prices[model], used)
                self.budget.settle(reserved, usd)
        if used is not None:
            costs.count(model, self.settings.prices.get(model), used)
        return answer

    async def _reserved(self, model: str, most: Usage) -> Reserved | None:
        if self.budget is None:
            return None
        try:
            return await self.budget.reserve(costs.most(self.settings.prices[model], most))
        except OverBudget:
            metrics.FAILURES.labels("over_budget").inc()
            raise


def most_usage(asked: dict[str, Any], settings: OpenAISettings) -> Usage:
    """What a completion uses at most."""
    return Usage(prompt=most_tokens(asked), completion=settings.max_output_tokens)


def most_tokens(asked: dict[str, Any]) -> int:
    """Of what is sent: no token is shorter than a byte, and what frames the messages is longer in JSON."""
    return len(msgspec.json.encode(asked))
