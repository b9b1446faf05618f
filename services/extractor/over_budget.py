"""A provider that is paid for, and one that costs nothing for what the first has no money left."""

from collections.abc import Sequence

from services.extractor.budget import OverBudget
from services.extractor.findings import Answered, Provider


class OfflineOverBudget:
    def __init__(self, paid: Provider, free: Provider) -> None:
        self.name = paid.name
        self._paid = paid
        self._free = free

    async def find(self, texts: Sequence[str]) -> list[Answered]:
        answers = await self._paid.find(texts)
        left = [row for row, answer in enumerate(answers) if isinstance(answer, OverBudget)]
        if left:
            for row, answer in zip(left, await self._free.find([texts[row] for row in left]), strict=True):
                answers[row] = answer
        return answers

    async def close(self) -> None:
        await self._paid.close()
        await self._free.close()
