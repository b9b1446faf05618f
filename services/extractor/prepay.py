"""The opinions of a file, bought by batches: `python -m services.extractor.prepay`, which `finestream prepay` starts.

Nothing is published: the answers are kept where the extractor, its backfill and `finestream extract` look for them.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import msgspec

from services.extractor.extract_file import arguments, dry_run, texts_of
from services.extractor.keeping import Summary
from services.extractor.openai_provider import Asking
from services.extractor.paid_once import key_of
from services.extractor.parts import unpaid
from services.extractor.prepayment import Prepayment
from services.extractor.providers import endpoint_of, paid_answers_of, redaction_of
from services.extractor.settings import ExtractorSettings
from services.extractor.underway import Underway
from services.extractor.worker import Worker
from shared import logs, settings
from shared.events import content_hash
from shared.experiments.readers import BadLines
from shared.jobs import ending
from shared.service import WrongSetting, space_of

Texts = Callable[[], Iterator[str]]  # begins anew each time


async def prepay(texts: Texts, chosen: ExtractorSettings, tell: Callable[[Summary], None]) -> None:
    """Raises WrongSetting, OverBudget, Unavailable, BatchRefused, Unkept, OSError."""
    check(chosen)
    asking, worker = Asking(chosen.openai, space_of(chosen.space)), Worker(chosen.torch_threads)
    try:
        redaction = await worker.run(redaction_of, chosen, worker)
        endpoint, answers = endpoint_of(chosen), paid_answers_of(chosen)
        try:
            underway = Underway(chosen.state)
            run = Prepayment(endpoint, asking, redaction, answers, underway, chosen.state)
            try:
                await run.run(texts)
            finally:  # also of what is cut short: it was paid for
                underway.close()
                tell(run.summary)
        finally:
            await answers.close()
            await endpoint.close()
    finally:
        worker.stop()


def check(chosen: ExtractorSettings) -> None:
    """Raises WrongSetting where nobody would look for the answers."""
    if chosen.provider != "openai":
        raise WrongSetting(f"FINESTREAM_EXTRACTOR_PROVIDER={chosen.provider}: only answers of openai are paid for")
    if not chosen.openai.kept_answers:
        raise WrongSetting("FINESTREAM_OPENAI_KEPT_ANSWERS=0: what is paid for would not be kept")


async def not_paid(texts: Texts, chosen: ExtractorSettings) -> set[str]:
    """Keys of the texts without an answer."""
    asking, answers = Asking(chosen.openai, space_of(chosen.space)), paid_answers_of(chosen)
    try:
        return (await unpaid(texts(), key_of(asking.name, asking.setup), answers))[1]
    finally:
        await answers.close()


def show(summary: Summary, as_json: bool) -> None:
    line = msgspec.json.encode({"summary": summary.values()}).decode() if as_json else summary.sentence()
    sys.stdout.write(line + "\n")


def main() -> None:
    """Exit codes: 0 done; 1 the file cannot be read, the endpoint does not answer or refuses, or today's budget is
    spent: run it again; 2 a wrong setting."""
    given = arguments("services.extractor.prepay", __doc__ or "", as_json="the summary as JSON")
    chosen = settings.read(ExtractorSettings)
    logs.configure("extractor", chosen.log_level)
    with ending():
        bad = BadLines(given.file)

        def texts() -> Iterator[str]:
            nonlocal bad
            bad = BadLines(given.file)  # of the last reading: all are alike
            return (text for _, text in islice(texts_of(given.file, bad), given.limit or None))

        if given.dry_run:
            check(chosen)
            wanted = asyncio.run(not_paid(texts, chosen))
            left = (text for text in texts() if content_hash(text) in wanted)
            dry_run(left, chosen, given.json, chosen.openai.batch_price)
        else:
            asyncio.run(prepay(texts, chosen, partial(show, as_json=given.json)))
        bad.tell()


if __name__ == "__main__":
    main()
