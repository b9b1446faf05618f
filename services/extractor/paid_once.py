"""A provider whose answers cost money, asked once for each text: what it said is on disk."""

import asyncio
from collections.abc import Sequence

from services.extractor.findings import Answered, Found, NothingUsable, Provider
from services.extractor.paid_answers import Kept, PaidAnswers
from shared.events import content_hash


class PaidOnce:
    """`setup`: all that the provider's answers depend on, but its name and the text."""

    def __init__(self, paid: Provider, setup: str, answers: PaidAnswers) -> None:
        self.name = paid.name
        self._paid = paid
        self._key = key_of(paid.name, setup)
        self._answers = answers
        self._underway: dict[str, asyncio.Task[Answered]] = {}

    async def find(self, texts: Sequence[str]) -> list[Answered]:
        keys = [content_hash(text) for text in texts]
        known = await self._answers.get(self._key, list(dict.fromkeys(keys)))
        return list(
            await asyncio.gather(
                *(
                    self._said(known[key]) if key in known else self._bought_once(key, text)
                    for key, text in zip(keys, texts, strict=True)
                )
            )
        )

    async def close(self) -> None:
        for task in self._underway.values():
            task.cancel()
        await asyncio.gather(*self._underway.values(), return_exceptions=True)
        await self._answers.close()
        await self._paid.close()

    async def _said(self, kept: Kept) -> Answered:
        return NothingUsable(kept.failure) if kept.failure else Found(kept.findings, self.name)

    async def _bought_once(self, key: str, text: str) -> Answered:
        """Who asks while the answer is on its way gets the same; it is kept also when nobody waits any more."""
        task = self._underway.get(key)
        if task is None:
            task = self._underway[key] = asyncio.create_task(self._bought(key, text))
            task.add_done_callback(lambda _: self._underway.pop(key))
        return await asyncio.shield(task)

    async def _bought(self, key: str, text: str) -> Answered:
        [answer] = await self._paid.find([text])
        kept = kept_of(answer)
        if kept is not None:
            await self._answers.put(self._key, key, kept)
        return answer


def key_of(name: str, setup: str) -> str:
    """What the answers of a provider are kept under."""
    return f"{name} {setup}"


def kept_of(answer: Answered) -> Kept | None:
    """None for what was not paid for, or is not final."""
    if isinstance(answer, Found):
        return Kept(answer.findings)
    if isinstance(answer, NothingUsable) and answer.reason != "rejected":
        return Kept(failure=answer.reason)
    return None
