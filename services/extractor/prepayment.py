"""Fills the paid answers by batches, so that who asks afterwards finds them: at a lower price, within a day.

The texts are cut into parts, each of which becomes one batch. What is known of a part is on disk before the endpoint
hears of it (underway.py), so whoever comes after a kill finds its batch again and pays for nothing twice. A text whose
answer fails or expires is left to a live call, or to the next run.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final

from services.extractor import costs
from services.extractor.batch_lines import LOST, line_of
from services.extractor.keeping import Keeping, Summary
from services.extractor.openai_batches import Batch, Batches, BatchRefused
from services.extractor.openai_endpoint import Endpoint
from services.extractor.openai_provider import Asking
from services.extractor.paid_answers import PaidAnswers
from services.extractor.paid_once import key_of
from services.extractor.parts import Parts, unpaid
from services.extractor.redaction import Redaction
from services.extractor.underway import Underway
from shared.experiments.bar import counted
from shared.jobs import patiently
from shared.service import WrongSetting

AT_ONCE: Final = 4  # batches
POLLS: Final = (5.0, 10.0, 20.0, 40.0, 60.0)  # seconds between two looks at what is underway; the last is repeated


class Prepayment:
    """One run. Raises OverBudget when today's budget pays for no more; the next run goes on from there."""

    def __init__(
        self, endpoint: Endpoint, asking: Asking, redaction: Redaction, answers: PaidAnswers, underway: Underway,
        folder: Path,
    ) -> None:  # fmt: skip
        settings = endpoint.settings
        price = settings.prices.get(settings.model)
        self.summary = Summary()
        self._price = None if price is None else costs.discounted(price, settings.batch_price)
        self._settings = settings
        self._batches, self._budget = Batches(endpoint), endpoint.budget
        self._asking = asking
        self._answers, self._underway = answers, underway
        self._provider = key_of(asking.name, asking.setup)
        self._keeping = Keeping(asking, self._batches, answers, underway, self._price, self.summary, folder)
        self._parts = Parts(asking, redaction, underway, self._provider, settings, self._price)
        self._folder = folder
        self._waiting: list[int] = []  # parts to be sent, the next one last
        self._open: list[int] = []  # parts that are batches
        self._is_full = False  # the account may have no more waiting until a batch is over
        self._told: Counter[int] = Counter()  # by part, of what is done
        self._tell: Callable[[int], None] = lambda _: None

    async def run(self, texts: Callable[[], Iterator[str]]) -> None:
        """`texts` begins anew each time. Raises Unavailable, BatchRefused, Unkept, WrongSetting, OSError."""
        try:
            await self._recover()
            wanted = await self._wanted(texts())
            total = len(wanted) + sum(len(self._underway.most(part)) for part in self._open)
            with counted("prepaying answers", total) as self._tell:
                async for part in self._parts.planned(texts(), wanted):
                    self._waiting.append(part)
                    await self._work_off(AT_ONCE)
                await self._work_off(0)
            await self._sweep()
        finally:
            for one in self._underway.parts():
                if not one.is_sent:
                    self._forget(one.number)

    async def _recover(self) -> None:
        """Take over what a run left behind that was cut short."""
        parts = self._underway.parts()
        for part in parts:
            if self._budget is not None and part.reserved is not None and part.files is None:
                self._budget.resume(part.reserved)
        unsure = [part.number for part in parts if part.is_sent and part.batch is None]
        found = await self._found(unsure) if unsure else {}
        for part in parts:
            if part.files is not None:
                await self._clear(part.number, part.files)
            elif part.batch is not None or part.number in found:
                self._underway.created(part.number, part.batch or found[part.number].id)
                self._open.append(part.number)
            else:
                self._forget(part.number)
        await self._sweep()

    async def _found(self, unsure: Sequence[int]) -> dict[int, Batch]:
        """Batches of parts that were sent, as far as there are any; of the others none can be created any more."""
        tags = {self._underway.tag(part): part for part in unsure}
        found = await self._batches.tagged(self._underway.home)
        if tags.keys() - found.keys():  # perhaps on its way: without its file it would fail
            for file, name in (await self._batches.uploaded(self._underway.home)).items():
                if _tag_of(name) in tags.keys() - found.keys():
                    await self._batches.delete(file)
            found = await self._batches.tagged(self._underway.home)
        return {part: found[tag] for tag, part in tags.items() if tag in found}

    async def _sweep(self) -> None:
        """Delete at the endpoint what was uploaded for nothing."""
        tags = {self._underway.tag(part) for part in self._open}
        for file, name in (await self._batches.uploaded(self._underway.home)).items():
            if _tag_of(name) not in tags:
                await self._batches.delete(file)

    async def _wanted(self, texts: Iterator[str]) -> set[str]:
        """Keys of what is to be paid for. Raises WrongSetting where fewer answers are kept than the file has texts."""
        different, wanted = await unpaid(texts, self._provider, self._answers)
        if different > self._settings.kept_answers:
            raise WrongSetting(
                f"FINESTREAM_OPENAI_KEPT_ANSWERS={self._settings.kept_answers}: the file has {different} different"
                " texts, and what is paid for would not be kept"
            )
        wanted -= self._underway.keys(self._provider)
        self.summary.texts, self.summary.known = different, different - len(wanted)
        return wanted

    async def _work_off(self, most_open: int) -> None:
        """Send what waits, until no more batches than so many are open."""
        while self._waiting or len(self._open) > most_open:
            if not (self._waiting and await self._is_next_sent()):
                await self._one_over()

    async def _is_next_sent(self) -> bool:
        """False: a batch that is underway must be over first. Raises OverBudget where there is none."""
        if len(self._open) >= AT_ONCE or self._is_full:
            return False
        part = self._waiting[-1]
        if self._budget is not None and not self._is_reserved(part):
            if self._open:
                return False
            raise self._budget.over()
        self._waiting.pop()
        batch = await patiently(partial(self._created, part))
        self._underway.created(part, batch.id)
        self._open.append(part)
        return True

    def _is_reserved(self, part: int) -> bool:
        """Put aside what the part costs at most; what today's budget does not pay for is split off it and waits."""
        if self._budget is None:
            return True
        most, room = list(accumulate(self._underway.most(part).values())), self._budget.room()
        paid = sum(usd <= room for usd in most)
        if paid < len(most):
            if not paid or self._open or room < self._budget.step:
                return False
            self._waiting.insert(-1, self._underway.split(part, paid))
        reserved = self._budget.reserve_now(most[paid - 1])
        if reserved is not None:
            self._underway.reserve(part, reserved)
        return reserved is not None

    async def _created(self, part: int) -> Batch:
        """The part's batch, which an earlier try may have created though it got no answer."""
        if self._underway.part(part).is_sent and (found := await self._found([part])):
            return found[part]
        tag = self._underway.tag(part)
        with self._requests(part) as file:
            uploaded = await self._batches.upload(f"{tag}.jsonl", file)
        self._underway.send(part)
        try:
            return await self._batches.create(uploaded, tag)
        except BatchRefused:
            self._take_back(part)
            await self._batches.delete(uploaded)
            raise

    @contextmanager
    def _requests(self, part: int) -> Iterator[IO[bytes]]:
        with TemporaryFile(dir=self._folder) as file:  # it has no name: nothing is left of it after a kill
            for asked in self._underway.asked(part):
                file.write(line_of(asked.number, self._asking.request(asked.shown)))
            yield file

    async def _one_over(self) -> None:
        """Wait until a batch is over, and keep its answers."""
        for pause in _repeating(POLLS):
            for part in self._open:
                batch = await patiently(partial(self._batches.get, self._underway.part(part).batch or ""))
                self._progress(part, batch.done)
                if batch.is_over:
                    await self._over(part, batch)
                    return
            await asyncio.sleep(pause)

    async def _over(self, part: int, batch: Batch) -> None:
        if batch.has_failed:
            self._open.remove(part)
            self._take_back(part)
            for file in batch.files:
                await self._batches.delete(file)
            self._again(part, batch)
            return
        asked = len(self._underway.most(part))
        usage, usd = await self._keeping.keep(part, batch)
        self._progress(part, asked)
        # From here to the budget nothing is waited for: what was spent is told once.
        reserved = self._underway.part(part).reserved
        self._underway.stored(part, batch.files)
        if self._budget is not None and reserved is not None:
            self._budget.settle(reserved, usd)
        costs.count(self._settings.model, self._price, usage)
        self._open.remove(part)
        self._is_full = False
        await self._clear(part, batch.files)

    def _again(self, part: int, batch: Batch) -> None:
        """What was too much for the account waits for the others, or else is halved. Raises BatchRefused."""
        texts = len(self._underway.most(part))
        if not batch.was_too_much or (texts == 1 and not self._open):
            raise BatchRefused(", ".join(batch.codes) or LOST)
        self._waiting.append(part)
        self._is_full = bool(self._open)
        if not self._open:
            self._parts.most = texts // 2
            self._waiting.insert(-1, self._underway.split(part, self._parts.most))

    async def _clear(self, part: int, files: Sequence[str]) -> None:
        for file in files:
            await patiently(partial(self._batches.delete, file))
        self._underway.drop(part)

    def _take_back(self, part: int) -> None:
        """Nothing is done of it, and nothing charged."""
        reserved = self._underway.part(part).reserved
        self._underway.take_back(part)
        if self._budget is not None and reserved is not None:
            self._budget.settle(reserved, 0.0)

    def _forget(self, part: int) -> None:
        self._take_back(part)
        self._underway.drop(part)

    def _progress(self, part: int, done: int) -> None:
        if done > self._told[part]:
            self._tell(done - self._told[part])
            self._told[part] = done


def _tag_of(name: str) -> str:
    return name.removesuffix(".jsonl")


def _repeating(pauses: Sequence[float]) -> Iterator[float]:
    yield from pauses
    while True:
        yield pauses[-1]
