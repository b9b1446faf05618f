"""Keeps what a batch answered, under what a live call would look for."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from services.extractor import costs
from services.extractor.batch_lines import LOST, Heard, Line, heard, read
from services.extractor.costs import Usage
from services.extractor.openai_batches import Batch, Batches
from services.extractor.openai_provider import Asking
from services.extractor.paid_answers import KEYS_AT_ONCE, PaidAnswers
from services.extractor.settings import Price
from services.extractor.underway import Underway, Unkept
from shared.jobs import patiently


@dataclass
class Summary:
    """What became of the texts of one run, those of an earlier one's batches included."""

    texts: int = 0  # different ones of the file
    known: int = 0  # of them paid for before
    kept: int = 0
    unusable: Counter[str] = field(default_factory=Counter)  # of the kept: why nothing can be used
    left: Counter[str] = field(default_factory=Counter)  # why there is no answer to keep

    def sentence(self) -> str:
        tokens, usd = costs.charged()
        return (
            f"{self.texts} different texts, {self.known} paid for before or underway; {self.kept} answers kept, of them"
            f" unusable: {_counts(self.unusable)}; left: {_counts(self.left)}; tokens: {_counts(tokens)};"
            f" cost: {'none known' if usd is None else f'{usd:.6f} USD'}"
        )

    def values(self) -> dict[str, Any]:
        tokens, usd = costs.charged()
        return {
            "texts": self.texts, "known": self.known, "kept": self.kept, "unusable": dict(self.unusable),
            "left": dict(self.left), "tokens": tokens, "usd": usd,
        }  # fmt: skip

    def heard(self, one: Heard) -> None:
        if one.kept is None:
            self.left[one.code] += 1
            return
        self.kept += 1
        if one.kept.failure is not None:
            self.unusable[one.kept.failure] += 1


class Keeping:
    def __init__(
        self, asking: Asking, batches: Batches, answers: PaidAnswers, underway: Underway, price: Price | None,
        summary: Summary, folder: Path,
    ) -> None:  # fmt: skip
        self._asking = asking
        self._batches, self._answers, self._underway = batches, answers, underway
        self._price, self._summary, self._folder = price, summary, folder

    async def keep(self, part: int, batch: Batch) -> tuple[Usage, float]:
        """What is known of the tokens, and at most which USD all have cost. Raises Unkept, Unavailable.

        What is not heard of may have been charged, like an answer that does not say its usage.
        """
        unheard, usage, usd, keys = self._underway.most(part), Usage(), 0.0, []
        provider = self._underway.part(part).provider
        async for number, line in self._lines(batch):
            most = unheard.pop(number, None)
            if most is None:  # of nothing that we asked, or once more
                continue
            asked = self._underway.one(part, number)
            one = heard(line, asked, self._asking)
            self._summary.heard(one)
            usage = costs.added(usage, one.usage or Usage())
            usd += most if one.usage is None else self._usd(one.usage)
            if one.kept is not None:
                await self._answers.put(provider, asked.key, one.kept)
                keys.append(asked.key)
        await self._check(provider, keys)
        self._summary.left.update({LOST: len(unheard)} if unheard else {})
        return usage, usd + sum(unheard.values())

    def _usd(self, usage: Usage) -> float:
        return 0.0 if self._price is None else costs.cost(self._price, usage)

    async def _check(self, provider: str, keys: Sequence[str]) -> None:
        """A database that cannot be written costs a live call no review, but here it would be money for nothing."""
        for start in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[start : start + KEYS_AT_ONCE]
            if len(await self._answers.get(provider, some)) < len(some):
                raise Unkept("answers that were paid for cannot be kept; they stay at the endpoint for the next run")

    async def _lines(self, batch: Batch) -> AsyncIterator[tuple[int, Line]]:
        for file in filter(None, (batch.answers, batch.errors)):
            with TemporaryFile(dir=self._folder) as into:
                await patiently(partial(self._batches.download, file, into))
                for line in into:
                    if found := read(line):
                        yield found


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "none"
