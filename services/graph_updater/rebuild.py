"""Fills collections from the whole log: `python -m services.graph_updater.rebuild`, which `finestream rebuild` starts.

The archive, then Kafka up to where it ends, go through the service's own handlers into the store that the settings
name: where its collections were lost, or beside the live ones under another FINESTREAM_QDRANT_COLLECTION_PREFIX.
Items come first, since users' vectors are made of theirs. Nothing is sent: item edges are facts of the log too.

Joins take facts in any order and any number of times, so a rebuild may be killed, started again, and run beside a
graph_updater that writes the same collections. How far it has read is kept in Kafka: the next one goes on from there.
"""

import argparse
import asyncio
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec
from msgspec import Struct

from services.graph_updater.main import ITEM_TOPICS, USER_TOPICS, Graph, opened
from services.graph_updater.settings import GraphUpdaterSettings
from services.graph_updater.store import KINDS, Store, collection
from shared import logs, topics
from shared.batches import Delivery
from shared.bookmark import Bookmark, bookmark
from shared.dead_letters import Record
from shared.events import Event, Source
from shared.experiments.bar import counted
from shared.jobs import ending, patiently
from shared.log_tail import Places, tailing
from shared.service import space_of
from shared.settings import ArchiveSettings, masked, read
from shared.space import Space
from shared.whole_log import Log, event_of

NEAR_RECORDS: Final = 1000  # so few new ones, and the rest is for the next one who reads Kafka
log = logs.get(__name__)


class Report(Struct):
    """What was done. `refused`: facts that do not fit these states, by reason; they are dead letters of the service."""

    facts: int = 0
    refused: dict[str, int] = {}
    users: int = 0  # in the store, now
    items: int = 0
    went_on: bool = False  # from where an earlier rebuild had got to
    holes: list[str] = []  # stretches of the log that are nowhere any more, a sentence each
    seconds: float = 0.0


class Nowhere:
    """A Sender: what these facts made the service say, it has said when they were new."""

    async def send_all(self, batch: Sequence[tuple[str, Event]]) -> list[Source]:
        return []


class Rebuild:
    def __init__(self, graph: Graph, whole: Log) -> None:
        self._graph = graph
        self._whole = whole
        self.refused: Counter[str] = Counter()
        self.facts = 0

    async def run(self, archived: int) -> None:
        """Everything, then what has come meanwhile, until little has."""
        with counted("rebuilding", archived) as done:
            for names in (ITEM_TOPICS, USER_TOPICS):
                async for chunk in self._whole.chunks(names):
                    await self._feed(chunk)
                    done(len(chunk))
        while await self._catch_up() > NEAR_RECORDS:
            log.info("catching up")

    async def _catch_up(self) -> int:
        count = 0
        async for chunk in self._whole.new_chunks():
            await self._feed(chunk)
            count += len(chunk)
        return count

    async def _feed(self, chunk: Sequence[Record]) -> None:
        deliveries = [Delivery(event, r.source) for r in chunk if (event := event_of(r)) is not None]
        for handler, names in ((self._graph.on_items, ITEM_TOPICS), (self._graph.on_users, USER_TOPICS)):
            some = [delivery for delivery in deliveries if delivery.source.topic in names]
            if some:
                self.refused.update(refused.reason for refused in await patiently(partial(handler, some)))
        self.facts += len(deliveries)
        while await self._graph.sweep.step(math.inf):
            pass


async def rebuild(settings: GraphUpdaterSettings, definition: Space, archive_url: str, *, from_start: bool) -> Report:
    """Raises WrongSetting, Unavailable, BadArchive, and aiokafka's KafkaError."""
    began = time.monotonic()
    group = f"{settings.kafka.topic_prefix}rebuild-{collection('users', definition, settings.qdrant.collection_prefix)}"
    async with (
        opened(settings, definition) as store,
        tailing(settings.kafka) as tail,
        bookmark(settings.kafka, group) as marked,
    ):
        after = {} if from_start else await _read_to(marked, store)
        whole = Log(archive_url, tail, after)
        await whole.start()
        # ranking takes a version that is not higher than what it shows for old: these begin above all that were.
        graph = Graph.of(_unannounced(settings), definition, store, Nowhere(), first_version=int(time.time()))
        work = Rebuild(graph, whole)
        await work.run(await whole.archived_rows())
        await marked.write(whole.end)
        users, items = [await store.count(kind) for kind in KINDS]
    return Report(
        work.facts, dict(work.refused), users, items, bool(after), whole.holes, round(time.monotonic() - began, 1)
    )


async def _read_to(marked: Bookmark, store: Store) -> Places:
    """Where to go on; nowhere, where a collection is empty: it is another one than was rebuilt."""
    if not all([await store.count(kind) for kind in KINDS]):
        return {}
    return await marked.read(topics.FOLDED)


def _unannounced(settings: GraphUpdaterSettings) -> GraphUpdaterSettings:
    # With no pause between two announcements none is deferred, and no row is marked for one to come.
    return settings.model_copy(update={"announce_seconds": 0.0})


def main() -> None:
    """Exit codes: 0 done; 1 something did not answer, or the archive cannot be read; 2 a wrong setting."""
    parser = argparse.ArgumentParser(description="Fill graph_updater's collections from the archive and Kafka.")
    parser.add_argument("--from-start", action="store_true", help="read all of the log, whatever was read before")
    arguments = parser.parse_args()
    settings, url = read(GraphUpdaterSettings), read(ArchiveSettings).url
    logs.configure("rebuild", settings.log_level)
    log.info("settings", **masked(settings))
    with ending():
        report = asyncio.run(rebuild(settings, space_of(settings.space), url, from_start=arguments.from_start))
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


if __name__ == "__main__":
    main()
