"""The whole log as one reading: the archive up to its offsets, and Kafka from there on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import islice
from typing import Final

from shared import archive, dead_letters, events, topics
from shared.dead_letters import Letter, Record
from shared.events import Event, InvalidEvent, Source
from shared.log_tail import LogTail, Places

Take = Callable[[Event, Source], None]
LETTERS: Final = tuple(topics.dead_letters(name) for name in topics.FOLDED)
CHUNK: Final = 4000  # records at once


class Log:
    """Some topics from their first record on. `start` before anything else.

    `after`: what lies before these offsets was read.
    """

    def __init__(
        self, archive_url: str, tail: LogTail, after: Places | None = None, names: Sequence[str] = topics.FOLDED
    ) -> None:
        self._url = archive_url
        self._tail = tail
        self._after: Places = after or {}
        self._names = names
        self._begin: Places = {}  # where Kafka follows on the archive
        self._letters_read: Places = {}
        self.end: Places = {}  # up to where the log counts now
        self.holes: list[str] = []  # a sentence for each stretch that neither has

    async def start(self) -> None:
        """Fix where the archive ends, and the log. Raises WrongSetting, BadArchive and as LogTail does."""
        await self._tail.check_partitions(self._names)
        archived = await asyncio.to_thread(archive.offsets, self._url, space=self._tail.space)
        firsts, self.end = await self._tail.firsts(self._names), await self._tail.ends(self._names)
        for topic, partitions in firsts.items():
            for partition, first in partitions.items():
                begin = max(_at(archived, topic, partition), _at(self._after, topic, partition))
                self._begin.setdefault(topic, {})[partition] = max(begin, first)
                self._note_hole(f"{topic} {partition}", begin, first, self.end[topic][partition])
        self._letters_read = await self._tail.firsts(LETTERS)

    async def archived_rows(self) -> int:
        """How many records of the archive there are to read, or some more: a file may be read in part."""
        return await asyncio.to_thread(self._archived_rows)

    def _archived_rows(self) -> int:
        wanted = {topics.in_space(name, self._tail.space): name for name in self._names}
        return sum(
            file.rows
            for manifest in archive.manifests(archive.Store(self._url))
            for file in manifest.files
            if (name := wanted.get(file.topic)) is not None
            and any(last >= _at(self._after, name, p) for p, (_, last) in file.ranges.items())
        )

    async def chunks(self, names: Sequence[str] = ()) -> AsyncIterator[list[Record]]:
        """Everything up to where the log counts now, of these topics alone where some are named."""
        names = names or self._names
        rows = archive.read(self._url, names, self._after, space=self._tail.space)
        while archived := await asyncio.to_thread(lambda: list(islice(rows, CHUNK))):
            yield [Record(row.source, row.key, row.value) for row in archived]
        async for chunk in self._tail_chunks(self._begin, names):
            yield chunk

    async def new_chunks(self) -> AsyncIterator[list[Record]]:
        """What has come since; from now on it counts too."""
        begin, self.end = self.end, await self._tail.ends(self._names)
        async for chunk in self._tail_chunks(begin, self._names):
            yield chunk

    async def read(self, take: Take) -> None:
        """Everything up to where the log counts now."""
        async for chunk in self.chunks():
            _give(chunk, take)

    async def read_on(self, take: Take) -> None:
        """What has come since; from now on it counts too."""
        async for chunk in self.new_chunks():
            _give(chunk, take)

    async def new_letters(self) -> AsyncIterator[Letter]:
        """Dead letters of these topics, of services of this space, that have not been given yet."""
        begin, self._letters_read = self._letters_read, await self._tail.ends(LETTERS)
        async for record in self._tail.read(begin, self._letters_read):
            letter = dead_letters.letter_of(record)
            if letter is not None and letter.group.endswith(f".{self._tail.space}"):
                yield letter

    async def _tail_chunks(self, begin: Places, names: Sequence[str]) -> AsyncIterator[list[Record]]:
        chunk: list[Record] = []
        async for record in self._tail.read(begin, {name: self.end[name] for name in names}):
            chunk.append(record)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _note_hole(self, place: str, begin: int, first: int, end: int) -> None:
        if begin < first:
            self.holes.append(f"{place}: offsets {begin} to {first - 1} are neither in the archive nor in Kafka")
        elif begin > end:
            self.holes.append(f"{place}: the archive ends at offset {begin} but Kafka at {end}; its log went back")


def _at(places: Places, topic: str, partition: int) -> int:
    return places.get(topic, {}).get(partition, 0)


def _give(chunk: Sequence[Record], take: Take) -> None:
    for record in chunk:
        event = event_of(record)
        if event is not None:
            take(event, record.source)


def event_of(record: Record) -> Event | None:
    """Decoded as the streams and the archiver do, as of its append time; None where they make a dead letter of it."""
    try:
        return events.decode(record.source.topic, record.value, now=record.source.appended_at)
    except InvalidEvent:
        return None
