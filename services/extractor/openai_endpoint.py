"""One account at one OpenAI-compatible endpoint: the client, and what is shared by all who call it."""

from typing import Any

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from services.extractor.calls import Calls
from services.extractor.settings import OpenAISettings


class Endpoint:
    def __init__(self, settings: OpenAISettings) -> None:
        self.client = AsyncOpenAI(
            base_url=settings.base_url,
            api_key=settings.api_key.get_secret_value() or "none",  # a server of one's own asks for none
            timeout=None,  # these two are the work of Calls
            max_retries=0,
        )
        self.calls = Calls(settings)

    async def complete(self, asked: dict[str, Any]) -> ChatCompletion:
        """Raises NothingUsable, Unavailable.

        Not `chat.completions.create`: it walks over schema and messages of every request for a third of its time.
        """
        return await self.calls(lambda: self.client.post("/chat/completions", body=asked, cast_to=ChatCompletion))

    async def close(self) -> None:
        """May be called by each who shares it."""
        await self.client.close()
