"""The whole log as one reading: the archive up to its offsets, and Kafka from there on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from shared import archive, dead_letters, events, topics
from shared.dead_letters import Letter, Record
from shared.events import Event, InvalidEvent, Source
from shared.log_tail import LogTail, Places

Take = Callable[[Event, Source], None]
LETTERS: Final = tuple(topics.dead_letters(name) for name in topics.FOLDED)


class Log:
    """What states are folded from. `start` before anything else."""

    def __init__(self, archive_url: str, tail: LogTail) -> None:
        self._url = archive_url
        self._tail = tail
        self._begin: Places = {}  # where Kafka follows on the archive
        self._end: Places = {}  # up to where the log counts now
        self._letters_read: Places = {}
        self.holes: list[str] = []  # a sentence for each stretch that neither has

    async def start(self) -> None:
        """Fix where the archive ends, and the log. Raises WrongSetting, BadArchive and as LogTail does."""
        await self._tail.check_partitions(topics.FOLDED)
        archived = await asyncio.to_thread(archive.offsets, self._url)
        firsts, self._end = await self._tail.firsts(topics.FOLDED), await self._tail.ends(topics.FOLDED)
        for topic, partitions in firsts.items():
            for partition, first in partitions.items():
                begin = archived.get(topic, {}).get(partition, 0)
                self._begin.setdefault(topic, {})[partition] = max(begin, first)
                self._note_hole(f"{topic} {partition}", begin, first, self._end[topic][partition])
        self._letters_read = await self._tail.firsts(LETTERS)

    async def read(self, take: Take) -> None:
        """Everything up to where the log counts now."""
        await asyncio.to_thread(self._read_archive, take)
        await self._read_tail(self._begin, take)

    async def read_on(self, take: Take) -> None:
        """What has come since; from now on it counts too."""
        begin, self._end = self._end, await self._tail.ends(topics.FOLDED)
        await self._read_tail(begin, take)

    async def new_letters(self) -> AsyncIterator[Letter]:
        """Dead letters of these topics that have not been given yet."""
        begin, self._letters_read = self._letters_read, await self._tail.ends(LETTERS)
        async for record in self._tail.read(begin, self._letters_read):
            letter = dead_letters.letter_of(record)
            if letter is not None:
                yield letter

    def _read_archive(self, take: Take) -> None:
        for event, source in archive.events_of(self._url, topics.FOLDED):
            take(event, source)

    async def _read_tail(self, begin: Places, take: Take) -> None:
        async for record in self._tail.read(begin, self._end):
            event = event_of(record)
            if event is not None:
                take(event, record.source)

    def _note_hole(self, place: str, begin: int, first: int, end: int) -> None:
        if begin < first:
            self.holes.append(f"{place}: offsets {begin} to {first - 1} are neither in the archive nor in Kafka")
        elif begin > end:
            self.holes.append(f"{place}: the archive ends at offset {begin} but Kafka at {end}; its log went back")


def event_of(record: Record) -> Event | None:
    """Decoded as the streams and the archiver do, as of its append time; None where they make a dead letter of it."""
    try:
        return events.decode(record.source.topic, record.value, now=record.source.appended_at)
    except InvalidEvent:
        return None
