"""Fills a new space with what another has: `python -m services.extractor.respace`, which `finestream respace` starts.

Opinions keep their phrases, so nobody is asked again what a review says: phrases and texts of the whole log (archive
and Kafka) are embedded in the new space, and its opinions, item semantics and item edges are written to its own topics
beside the live ones. Interaction edges and blanks hold no vectors and are copied.

At the end the new space's extractor, which must not run yet, is placed where the other one stood when this began, so
that no review is left out and none extracted twice. Joins take facts any number of times: the job may be killed and
started again. How far it has read is kept in Kafka: the next one goes on from there.
"""

import argparse
import asyncio
import sys
import time

import msgspec
from aiokafka.errors import CommitFailedError, UnknownMemberIdError

from services.extractor.main import Embedding, embedding_of, stream_of
from services.extractor.respacing import DERIVED, WHOLE, Report, Respacing
from services.extractor.review_texts import ReviewTexts
from services.extractor.senders import Sender
from services.extractor.settings import ExtractorSettings
from services.extractor.worker import Worker
from shared import kafka, logs, space, topics
from shared.bookmark import Bookmark, bookmark
from shared.errors import FinestreamError
from shared.experiments.bar import counted
from shared.jobs import ending
from shared.log_tail import Places, tailing
from shared.service import WrongSetting
from shared.settings import ArchiveSettings, masked, read
from shared.whole_log import Log

log = logs.get(__name__)


class Holes(FinestreamError):
    """Stretches of the log are nowhere any more, or not where we were told to look."""


async def respace(
    settings: ExtractorSettings, of: str, to: Embedding, archive_url: str, *, from_start: bool, despite_holes: bool
) -> Report:
    """Raises WrongSetting, Holes, Unavailable, BadArchive, and aiokafka's KafkaError."""
    began = time.monotonic()
    theirs = settings.kafka.model_copy(update={"space": of})
    await kafka.ensure_topics(settings.kafka)
    producer = kafka.Producer(settings.kafka)
    await producer.start()
    try:
        async with (
            tailing(theirs) as tail,
            bookmark(theirs, f"{theirs.topic_prefix}respace-{of}.{to.space.name}") as marked,
        ):
            before = await marked.read((*DERIVED, topics.REVIEWS))
            after = {} if from_start else {name: places for name, places in before.items() if name in DERIVED}
            # Before the log's end is looked up: the opinions of every review before this place are in it.
            extracted = await _extracted(settings, of)
            whole = Log(archive_url, tail, after, (*WHOLE, *DERIVED))
            await whole.start()
            if whole.holes and not despite_holes:
                raise Holes(f"{'; '.join(whole.holes)}; is FINESTREAM_ARCHIVE_URL right? (--despite-holes goes on)")
            report = await _run(settings, to, producer, whole, await whole.archived_rows())
            reached = {name: whole.end[name] for name in DERIVED} | {topics.REVIEWS: extracted}
            report.unplaced = await _place(settings, before, reached)
            await marked.write(reached)
    finally:
        await producer.stop()
    report.went_on, report.holes = bool(after), whole.holes
    report.seconds = round(time.monotonic() - began, 1)
    return report


async def _run(settings: ExtractorSettings, to: Embedding, sender: Sender, whole: Log, records: int) -> Report:
    texts = ReviewTexts()
    try:
        with counted("embedding again", records) as told:
            work = Respacing(to, texts, sender, settings)
            await work.run(whole, told)
    finally:
        texts.close()
    return work.report


async def _extracted(settings: ExtractorSettings, of: str) -> dict[int, int]:
    """Up to where the other space's extractor has answered the reviews, in the partitions that it has committed."""
    theirs = settings.kafka.model_copy(update={"space": of})
    async with bookmark(theirs, kafka.group_of(theirs, stream_of(topics.REVIEWS))) as group:
        return (await group.read([topics.REVIEWS])).get(topics.REVIEWS, {})


async def _place(settings: ExtractorSettings, before: Places, reached: Places) -> list[str]:
    """Moves the new space's extractor to where this got to, unless it has gone on from where the last run put it.

    Returns the partitions that it will read from their beginning.
    """
    unplaced = []
    for topic in (topics.REVIEWS, topics.ITEMS):
        async with bookmark(settings.kafka, kafka.group_of(settings.kafka, stream_of(topic))) as group:
            places = reached.get(topic, {})
            standing = (await group.read([topic])).get(topic, {})
            if all(before.get(topic, {}).get(partition) == at for partition, at in standing.items()):
                standing |= places
                await _begin(group, topic, places)
            unplaced += [f"{topic} {p}" for p in range(settings.kafka.partitions) if p not in standing]
    return unplaced


async def _begin(group: Bookmark, topic: str, places: dict[int, int]) -> None:
    try:
        await group.write({topic: places})
    except (CommitFailedError, UnknownMemberIdError):
        log.warning("the new space's extractor runs already, and reads what it has not read", topic=topic)


def main() -> None:
    """Exit codes: 0 done; 1 something did not answer, or the archive cannot be read; 2 a wrong setting."""
    parser = argparse.ArgumentParser(description="Fill a new space with the facts of another.")
    parser.add_argument("--of", required=True, help="the space whose facts are embedded again")
    parser.add_argument("--from-start", action="store_true", help="read all of the log, whatever was read before")
    parser.add_argument("--despite-holes", action="store_true", help="go on where a part of the log is nowhere")
    arguments = parser.parse_args()
    settings, url = read(ExtractorSettings), read(ArchiveSettings).url
    logs.configure("respace", settings.log_level)
    log.info("settings", **masked(settings))
    with ending():
        report = asyncio.run(_main(settings, url, arguments))
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


async def _main(settings: ExtractorSettings, url: str, given: argparse.Namespace) -> Report:
    _check(settings, given.of)
    worker = Worker(settings.torch_threads)
    try:
        to = await worker.run(embedding_of, settings, worker)
        try:
            return await respace(
                settings, given.of, to, url, from_start=given.from_start, despite_holes=given.despite_holes
            )
        finally:
            await to.embeddings.close()
    finally:
        worker.stop()


def _check(settings: ExtractorSettings, of: str) -> None:
    """Raises WrongSetting."""
    if of == settings.space.name:
        raise WrongSetting(f"FINESTREAM_SPACE_NAME names the new space; it is {of!r}, the one to read")
    try:
        space.load(of, settings.space.root)
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise WrongSetting(f"--of {of}: {error}") from None


if __name__ == "__main__":
    main()
