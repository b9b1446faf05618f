"""Dead letters of users who have been erased are taken back: Parquet is not the only place that keeps their words.

Every letter is looked at once, and all of them again when a user has been erased since, and at every start. So it
does not matter which came first, the letter or the erasure, nor when this was killed.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from aiokafka.errors import KafkaError
from msgspec import Struct

from services.archiver import metrics
from shared import dead_letters, logs, topics
from shared.dead_letters import Letter, Record
from shared.errors import Unavailable
from shared.kafka import Producer
from shared.log_tail import Places, tailing
from shared.service import Heartbeat
from shared.settings import KafkaSettings

OF_ITEMS: Final = (topics.ITEMS, topics.ITEM_SEMANTICS, topics.ITEM_EDGES)  # their key is no user's
log = logs.get(__name__)


class _Said(Struct):
    """What a refused record may say of its user, be it what it may. `erased_at`: it is what blanks their review."""

    user_id: Any = ""
    ts: Any = None
    erased_at: Any = None


class Forgetting:
    """`erased`: user -> up to when; `owns`: which partitions of the dead letters are this worker's."""

    def __init__(
        self, kafka: KafkaSettings, spaces: Sequence[str], producer: Producer,
        erased: Callable[[], Mapping[str, float]], owns: Callable[[int], bool],
    ) -> None:  # fmt: skip
        self._kafka = kafka
        self._producer = producer
        self._erased = erased
        self._owns = owns
        letters = [topics.dead_letters(t.name) for t in topics.ALL if t.dead_letters and t.name != topics.ERASURES]
        self._names = list(dict.fromkeys(topics.in_space(name, space) for space in spaces for name in letters))
        self._known: Mapping[str, float] = {}  # the erasures that what is read has been held against
        self._read: Places = {}

    async def run(self, pause_seconds: float, heart: Heartbeat) -> None:
        """Look for ever; ends when cancelled. A look that fails for a defect is no heartbeat, and is tried again."""
        while True:
            try:
                await self.look()
                heart.beat()
            except (KafkaError, Unavailable, OSError) as error:
                heart.beat()
                log.warning("dead letters cannot be looked at yet", error=str(error) or type(error).__name__)
            except Exception:
                log.exception("dead letters could not be looked at")
            await asyncio.sleep(pause_seconds)

    async def look(self) -> int:
        """Take back what is there of erased users; returns how many. Raises as Kafka does, and looks again then."""
        erased = self._erased()
        if erased != self._known:
            self._read = {}
        if not erased:
            return 0
        found: dict[bytes | None, Record] = {}
        async with tailing(self._kafka) as tail:
            ends = self._ours(await tail.ends(self._names))
            begin = self._read or self._ours(await tail.firsts(self._names))
            async for record in tail.read(begin, ends):
                letter = dead_letters.letter_of(record)
                if letter is not None and _is_erased(letter, erased):
                    found[record.key] = msgspec.structs.replace(record, value=None, headers=())
                elif letter is None and record.value is None:
                    found.pop(record.key, None)  # taken back already
        for record in found.values():
            await dead_letters.take_back(self._producer, record)
        self._read, self._known = ends, erased
        metrics.FORGOTTEN.inc(len(found))
        return len(found)

    def _ours(self, places: Places) -> Places:
        return {
            name: {partition: at for partition, at in offsets.items() if self._owns(partition)}
            for name, offsets in places.items()
        }


def _is_erased(letter: Letter, erased: Mapping[str, float]) -> bool:
    """What cannot be read is of the user that its key names, and of when Kafka took it."""
    record = letter.record
    try:
        said = msgspec.json.decode(record.value or b"", type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = _Said()
    if said.erased_at:
        return False
    key = "" if record.source.topic in OF_ITEMS else (record.key or b"").decode("utf-8", "replace")
    users = {key, said.user_id if isinstance(said.user_id, str) else ""} - {""}
    at = record.source.appended_at
    if isinstance(said.ts, int | float):
        at = min(at, said.ts)
    return any(at <= erased.get(user, 0.0) for user in users)
