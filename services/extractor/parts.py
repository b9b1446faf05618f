"""Cuts the texts of a file into parts, each of which becomes one batch."""

from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any

from services.extractor import costs
from services.extractor.batch_lines import line_of
from services.extractor.openai_batches import MOST_BYTES
from services.extractor.openai_endpoint import most_usage
from services.extractor.openai_provider import Asking
from services.extractor.paid_answers import KEYS_AT_ONCE, PaidAnswers
from services.extractor.redaction import Redaction
from services.extractor.settings import OpenAISettings, Price
from services.extractor.underway import Asked, Underway
from shared.events import content_hash


class Parts:
    """`provider`: what the answers are kept under; `price`: of a batch's answers, None: not known."""

    def __init__(
        self, asking: Asking, redaction: Redaction, underway: Underway, provider: str, settings: OpenAISettings,
        price: Price | None,
    ) -> None:  # fmt: skip
        self.most = settings.batch_requests  # of the next part
        self._asking, self._redaction = asking, redaction
        self._underway = underway
        self._provider = provider
        self._settings, self._price = settings, price

    async def planned(self, texts: Iterator[str], wanted: set[str]) -> AsyncIterator[int]:
        """Parts that ask for each of the wanted once, within the bounds of one batch."""
        part, count, size = self._underway.plan(self._provider), 0, 0
        while some := dict(islice(_once(texts, wanted), KEYS_AT_ONCE)):
            asked: list[Asked] = []
            shown = await self._asking.shown(list(some.values()), self._redaction)
            for (key, text), one in zip(some.items(), shown, strict=True):
                request = self._asking.request(one)
                added = len(line_of(count, request))
                if count >= self.most or size + added > MOST_BYTES:
                    self._underway.add(part, asked)
                    yield part
                    part, count, size, asked = self._underway.plan(self._provider), 0, 0, []
                asked.append(Asked(count, key, text, one, self._most_usd(request)))
                count, size = count + 1, size + added
            self._underway.add(part, asked)
        if count:
            yield part

    def _most_usd(self, request: dict[str, Any]) -> float:
        return 0.0 if self._price is None else costs.most(self._price, most_usage(request, self._settings))


async def unpaid(texts: Iterator[str], provider: str, answers: PaidAnswers) -> tuple[int, set[str]]:
    """How many different texts there are, and the keys of those without an answer."""
    different: set[str] = set()
    wanted: set[str] = set()
    while some := {content_hash(text) for text in islice(texts, KEYS_AT_ONCE)}:
        new = some - different
        different |= new
        wanted |= new - (await answers.get(provider, list(new))).keys()
    return len(different), wanted


def _once(texts: Iterable[str], wanted: set[str]) -> Iterator[tuple[str, str]]:
    """Keys and texts of the wanted, which are wanted no more."""
    for text in texts:
        key = content_hash(text)
        if key in wanted:
            wanted.discard(key)
            yield key, text
