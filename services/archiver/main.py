"""The archiver: every topic of Kafka to Parquet, continuously; the log that training and rebuilding read."""

import asyncio
from collections.abc import Iterable

from services.archiver import lock
from services.archiver.align import align
from services.archiver.archiver import Archiver
from services.archiver.forgetting import Forgetting
from services.archiver.log_reader import LogReader, Place
from services.archiver.settings import ArchiverSettings
from services.archiver.writer import OtherWorkers, Writer
from shared import kafka, topics
from shared.archive import BadArchive, Store, manifest_name
from shared.service import Heartbeat, Runtime, WrongSetting, run


async def compose(runtime: Runtime[ArchiverSettings]) -> None:
    settings = runtime.settings
    heartbeat = runtime.health.watch("archive", settings.progress_timeout_seconds)
    try:
        store = Store(settings.archive.url)
        name = manifest_name(settings.worker, settings.workers)
        held = await asyncio.to_thread(lock.acquire, store, name, settings.takeover_seconds)
        writer = _writer(settings, store, heartbeat)
        await asyncio.to_thread(writer.open)
    except (BadArchive, OtherWorkers, lock.Held, OSError) as error:
        raise WrongSetting(f"FINESTREAM_ARCHIVE_URL {settings.archive.url}: {error}") from None
    for space in settings.all_spaces:
        await kafka.ensure_topics(settings.kafka.model_copy(update={"space": space}))
    reader, producer = LogReader(settings.kafka, _places(settings, writer)), kafka.Producer(settings.kafka)
    await reader.start()
    await producer.start()
    looks = runtime.health.watch("forgetting", settings.progress_timeout_seconds)
    forgetting = asyncio.create_task(_forgetting(settings, writer, producer).run(settings.forget_seconds, looks))
    try:
        await align(reader, writer)
        runtime.health.ready()
        await Archiver(settings, reader, writer, heartbeat).run(runtime.stopping)
    finally:
        forgetting.cancel()
        await asyncio.gather(forgetting, return_exceptions=True)
        await producer.stop()
        await reader.stop()
        if held is not None:
            held.close()


def _forgetting(settings: ArchiverSettings, writer: Writer, producer: kafka.Producer) -> Forgetting:
    return Forgetting(settings.kafka, settings.all_spaces, producer, lambda: writer.erased, writer.owns)


def _writer(settings: ArchiverSettings, store: Store, heartbeat: Heartbeat) -> Writer:
    return Writer(
        store,
        worker=settings.worker,
        workers=settings.workers,
        compact_files=settings.compact_files,
        small_file_bytes=settings.small_file_bytes,
        progress=heartbeat.beat,
    )


def _places(settings: ArchiverSettings, writer: Writer) -> list[Place]:
    """This worker's partitions, and every partition of erasures: an edge of an item may name any user."""
    return [
        (topic, partition)
        for topic in names_of(settings.all_spaces)
        for partition in range(settings.kafka.partitions)
        if writer.owns(partition) or topic == topics.ERASURES
    ]


def names_of(spaces: Iterable[str]) -> list[str]:
    """Every topic to archive: what is shared, once, and what is derived, of each space."""
    return list(dict.fromkeys(topics.in_space(topic, space) for space in spaces for topic in topics.ARCHIVED))


def main() -> None:
    run("archiver", ArchiverSettings, compose)


if __name__ == "__main__":
    main()
