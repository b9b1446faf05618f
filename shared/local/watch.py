"""How far the system has come, seen from Kafka: ends of topics, lags of groups, dead letters."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient

from shared import dead_letters, topics
from shared.dead_letters import Letter
from shared.kafka import client_options, name_of, plain_name
from shared.log_tail import LogTail, Places, tailing
from shared.settings import KafkaSettings

DEAD_LETTER_TOPICS: Final = tuple(topics.dead_letters(t.name) for t in topics.ALL if t.dead_letters)


class Watch:
    """Reads only; belongs to no group. Topic names are the plain ones."""

    def __init__(self, kafka: KafkaSettings, tail: LogTail, admin: AIOKafkaAdminClient) -> None:
        self._kafka = kafka
        self._tail = tail
        self._admin = admin

    @property
    def space(self) -> str:
        return self._kafka.space

    async def ends(self, names: Sequence[str]) -> Places:
        """The next offset of every partition of these topics."""
        return await self._tail.ends(names)

    async def lags(self) -> dict[str, int]:
        """Group of this space -> how many records of the topics it has committed in are not committed yet."""
        groups = [name for name, *_ in await self._admin.list_consumer_groups()]
        own = f".{self._kafka.space}"
        ours = sorted(name for name in groups if name.startswith(self._kafka.topic_prefix) and name.endswith(own))
        known = {name_of(self._kafka, topic.name) for topic in topics.ALL}
        lags = {}
        for group in ours:
            done: Places = {}
            for place, meta in (await self._admin.list_consumer_group_offsets(group)).items():
                if place.topic in known:
                    done.setdefault(plain_name(self._kafka, place.topic), {})[place.partition] = max(0, meta.offset)
            lags[group.removeprefix(self._kafka.topic_prefix).removesuffix(own)] = behind(
                await self._tail.ends(sorted(done)), done
            )
        return lags

    async def letters(self, names: Sequence[str] = DEAD_LETTER_TOPICS) -> AsyncIterator[Letter]:
        """Every dead letter of these `.dlq` topics up to now, once; not those taken back, nor foreign records.

        Raises Unavailable when the broker falls silent.
        """
        held: dict[bytes | None, Letter] = {}
        async with tailing(self._kafka) as tail:
            async for record in tail.read(await tail.firsts(names), await tail.ends(names)):
                letter = dead_letters.letter_of(record)
                if letter is not None:
                    held[record.key] = letter
                elif record.value is None:
                    held.pop(record.key, None)
        for letter in held.values():
            yield letter


@asynccontextmanager
async def watching(kafka: KafkaSettings) -> AsyncIterator[Watch]:
    """A Watch of the broker in `kafka`. Raises aiokafka's KafkaError when it does not answer."""
    admin = AIOKafkaAdminClient(**client_options(kafka), request_timeout_ms=10_000)
    async with tailing(kafka) as tail:
        await admin.start()
        try:
            yield Watch(kafka, tail, admin)
        finally:
            await admin.close()


def behind(ends: Places, done: Places) -> int:
    """How many records of `ends` are not in `done`."""
    return sum(
        max(0, end - done.get(topic, {}).get(partition, 0))
        for topic, partitions in ends.items()
        for partition, end in partitions.items()
    )


def total(ends: Places, topic: str) -> int:
    return sum(ends[topic].values())
