"""Records that can never succeed: kept with their bytes, where they came from, and why.

A dead letter lies in `<topic>.dlq` with the value and headers of the original and the headers
dlq-{topic,partition,offset,timestamp,group,service,error,reason,attempt}, all UTF-8 text, and dlq-key, the original's
key. Its own key is its name: those topics are compacted, so a letter that is written twice is kept once, and one of a
user who has been forgotten is taken back with a tombstone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, get_args

from msgspec import Struct

from shared import logs, topics
from shared.errors import InvalidRequest
from shared.events import Reason, Source
from shared.kafka import Headers, Producer
from shared.metrics import DEAD_LETTERS

PREFIX: Final = "dlq-"
KEY: Final = PREFIX + "key"
MAX_ERROR_CHARS: Final = 500
TRUNCATED_BYTES: Final = 256 * 1024  # of a value that Kafka refuses to take again with our headers added
log = logs.get(__name__)


class Record(Struct, frozen=True, gc=False):
    """A record as it lies in Kafka. `source.topic` is the plain name, without the operator's prefix."""

    source: Source
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: the original record and what is known of its failure.

    `timestamp` (in record.source.appended_at) is seconds since 1970; `attempt` counts how often it was tried.
    """

    record: Record
    group: str
    service: str
    reason: Reason
    error: str
    attempt: int = 1


def headers_of(letter: Letter) -> list[tuple[str, bytes]]:
    """The original's headers, then ours. Headers of an earlier dead letter (a replayed one) are replaced."""
    source = letter.record.source
    ours = {
        "topic": source.topic,
        "partition": str(source.partition),
        "offset": str(source.offset),
        "timestamp": repr(source.appended_at),
        "group": letter.group,
        "service": letter.service,
        "error": letter.error[:MAX_ERROR_CHARS],
        "reason": letter.reason,
        "attempt": str(letter.attempt),
    }
    kept = [(name, value) for name, value in letter.record.headers if not name.startswith(PREFIX)]
    key = [(KEY, letter.record.key)] if letter.record.key is not None else []
    return kept + key + [(PREFIX + name, value.encode("utf-8", "replace")) for name, value in ours.items()]


def name_of(letter: Letter) -> bytes:
    """The key of the letter's own record."""
    source = letter.record.source
    return f"{source.topic}/{source.partition}/{source.offset}/{letter.group}".encode()


def read(value: bytes | None, headers: Headers) -> Letter:
    """The inverse: a letter from a record of a `.dlq` topic. Raises ValueError when a header is missing or wrong."""
    ours = {name: data for name, data in headers if name.startswith(PREFIX)}
    key = ours.pop(KEY, None)
    found = {name.removeprefix(PREFIX): data.decode() for name, data in ours.items()}
    try:
        source = Source(found["topic"], int(found["partition"]), int(found["offset"]), float(found["timestamp"]))
        reason = found["reason"]
        if reason not in get_args(Reason):
            raise ValueError(f"unknown reason {reason!r}")
        kept = tuple((name, data) for name, data in headers if not name.startswith(PREFIX))
        return Letter(
            Record(source, key, value, kept), found["group"], found["service"], reason,  # type: ignore[arg-type]  # checked above
            found["error"], int(found["attempt"]),
        )  # fmt: skip
    except KeyError as missing:
        raise ValueError(f"not a dead letter: header {PREFIX}{missing.args[0]} is missing") from None


def letter_of(record: Record) -> Letter | None:
    """The letter that a record of a `.dlq` topic is; None for a tombstone and for what is no letter of ours."""
    try:
        return read(record.value, record.headers)
    except ValueError:
        return None


async def send(producer: Producer, letter: Letter) -> None:
    """Write one dead letter; returns when the broker has acknowledged it. Raises Unavailable when it does not."""
    record, topic = letter.record, topics.dead_letters(letter.record.source.topic)
    headers = headers_of(letter)
    try:
        await producer.send_raw(topic, name_of(letter), record.value, headers)
    except InvalidRequest:
        # Too large with our headers on top: a cut letter is better than a partition that waits for ever.
        value = record.value or b""
        headers.append((PREFIX + "cut-from-bytes", str(len(value)).encode()))
        await producer.send_raw(topic, name_of(letter), value[:TRUNCATED_BYTES], headers)
    DEAD_LETTERS.labels(record.source.topic, letter.reason).inc()
    _log(letter)


def _log(letter: Letter) -> None:
    source = letter.record.source
    log.warning(
        "dead letter", topic=source.topic, partition=source.partition, offset=source.offset,
        reason=letter.reason, attempt=letter.attempt, group=letter.group,
    )  # fmt: skip


async def take_back(producer: Producer, letter: Record) -> None:
    """A tombstone for this record of a `.dlq` topic: readers pass it over from now on, and Kafka's compaction removes
    it. Raises as send.
    """
    await producer.send_raw(letter.source.topic, letter.key, None)


def have_topic(names: Sequence[str]) -> bool:
    """Whether each of these plain topic names has a dead-letter topic."""
    return {t.name for t in topics.ALL if t.dead_letters}.issuperset(names)
