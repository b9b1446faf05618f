"""Dead letters: everything about the original comes back, and nothing is too large to be buried."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import dead_letters, topics
from shared.dead_letters import Letter, Record
from shared.errors import InvalidRequest
from shared.events import Reason, Source
from shared.kafka import Headers
from shared.metrics import DEAD_LETTERS

TEXT = st.text(st.characters(codec="utf-8"), max_size=50)
LETTERS = st.builds(
    Letter,
    record=st.builds(
        Record,
        source=st.builds(
            Source,
            st.sampled_from([t.name for t in topics.ALL]),
            st.integers(0, 1023),
            st.integers(0, 2**62),
            st.floats(0, 4e9),
        ),
        key=st.none() | st.binary(max_size=50),
        value=st.none() | st.binary(max_size=50),
        headers=st.lists(st.tuples(st.sampled_from(["trace", "ts"]), st.binary(max_size=9))).map(tuple),
    ),
    group=TEXT,
    service=TEXT,
    reason=st.sampled_from(get_args(Reason)),
    error=TEXT,
    attempt=st.integers(1, 99),
)


@given(LETTERS)
def test_a_letter_reads_back_as_it_was_written(letter: Letter) -> None:
    headers = dead_letters.headers_of(letter)
    assert dead_letters.read(letter.record.value, headers) == letter
    assert {name for name, _ in headers} >= {
        "dlq-topic", "dlq-partition", "dlq-offset", "dlq-timestamp", "dlq-group", "dlq-service", "dlq-error",
        "dlq-reason", "dlq-attempt",
    }  # fmt: skip


@given(LETTERS, LETTERS)
def test_a_replayed_letter_that_fails_again_carries_only_its_newest_failure(first: Letter, second: Letter) -> None:
    record = Record(second.record.source, b"k", b"v", tuple(dead_letters.headers_of(first)))
    headers = dead_letters.headers_of(Letter(record, "g", "s", second.reason, "again", 1))
    ours = [name for name, _ in headers if name.startswith(dead_letters.PREFIX)]
    assert len(ours) == len(set(ours)) == 10
    assert dead_letters.read(b"v", headers).error == "again"


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ([], "header dlq-topic is missing"),
        ([("dlq-topic", b"items"), ("dlq-partition", b"x"), ("dlq-offset", b"1"), ("dlq-timestamp", b"1")], "invalid"),
    ],
)
def test_what_is_no_dead_letter_is_refused(headers: Headers, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dead_letters.read(b"{}", headers)


class Narrow:
    """A producer that takes values up to a size, as Kafka does."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes | None, bytes | None, Headers]] = []

    async def send_raw(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        if value is not None and len(value) > 300_000:
            raise InvalidRequest("the record is too large for Kafka")
        self.taken.append((topic, key, value, headers))


async def test_a_record_too_large_to_be_buried_whole_is_cut_and_says_so() -> None:
    producer = Narrow()
    before = DEAD_LETTERS.labels("reviews", "not_json")._value.get()
    record = Record(Source("reviews", 1, 7, 1e9), b"k", b"x" * 1_000_000)
    await dead_letters.send(producer, Letter(record, "g", "s", "not_json", "no"))  # type: ignore[arg-type]
    ((topic, key, value, headers),) = producer.taken
    assert (topic, key, value) == ("reviews.dlq", b"reviews/1/7/g", b"x" * dead_letters.TRUNCATED_BYTES)
    assert ("dlq-key", b"k") in headers
    assert ("dlq-cut-from-bytes", b"1000000") in headers
    assert DEAD_LETTERS.labels("reviews", "not_json")._value.get() == before + 1
