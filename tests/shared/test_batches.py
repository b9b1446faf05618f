"""One batch, without Kafka: every record ends once, in order, whatever the handler and the broker do."""

import asyncio
import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from shared import batches, dead_letters, events, topics
from shared.batches import Batch, Batches, Delivery, Refused, Stopped
from shared.dead_letters import Record
from shared.errors import DeadlineExceeded, Overloaded, Unavailable
from shared.events import Interaction, Source
from shared.kafka import Headers, Producer

KINDS = ["good", "poison", "refused", "culprit"]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(batches, "_delays", lambda: iter(lambda: 0.0, None))
    with capture_logs():  # pretty tracebacks of a thousand provoked failures take minutes
        yield


class Post:
    """A producer that fails now and then, and keeps what it took."""

    def __init__(self, chance: random.Random) -> None:
        self.letters: list[tuple[int, str]] = []
        self._chance = chance

    async def send_raw(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        await asyncio.sleep(0)
        if self._chance.random() < 0.3:
            raise Unavailable("Kafka did not take the record")
        letter = dead_letters.read(value, headers)
        self.letters.append((letter.record.source.offset, letter.reason))


def record(offset: int, kind: str) -> Record:
    event = Interaction(event_id=f"{offset}", user_id=kind, item_id="i", ts=1e9)
    value = b"{" if kind == "poison" else events.encode(event)
    return Record(Source(topics.INTERACTIONS, 0, offset, 1e9), b"k", value)


def user_of(delivery: Delivery) -> str:
    assert isinstance(delivery.event, Interaction)
    return delivery.event.user_id


class Store:
    """A handler with every way to fail."""

    def __init__(self, chance: random.Random) -> None:
        self.effects: list[int] = []
        self._chance = chance
        self._errors: Iterator[Exception] = iter([Overloaded("full"), DeadlineExceeded("slow"), Unavailable("down")])

    async def __call__(self, deliveries: Sequence[Delivery]) -> Sequence[Refused]:
        await asyncio.sleep(0)
        if self._chance.random() < 0.3:
            raise next(self._errors, Unavailable("down"))
        if any(user_of(d) == "culprit" for d in deliveries):
            raise ZeroDivisionError
        self.effects.extend(d.source.offset for d in deliveries if user_of(d) == "good")
        return [Refused(d, "bad_id", "no") for d in deliveries if user_of(d) == "refused"]


def make(handle: batches.Handler, post: Post, stopping: asyncio.Event | None = None) -> Batches:
    producer: Producer = post  # type: ignore[assignment]
    return Batches("tested", "group", handle, producer, stopping or asyncio.Event())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(KINDS), max_size=12), st.integers(0, 2**16))
def test_every_record_ends_once_and_in_order(kinds: list[str], seed: int) -> None:
    records = [record(i, kind) for i, kind in enumerate(kinds)]
    chance = random.Random(seed)
    post, store, finished = Post(chance), Store(chance), list[int]()

    async def finish(done: Sequence[Record]) -> None:
        for offset in (record.source.offset for record in done):
            ended = store.effects if kinds[offset] == "good" else [at for at, _ in post.letters]
            assert offset in ended, "finished only after the effect or the letter"
            finished.append(offset)

    asyncio.run(make(store, post).run(Batch(records, lambda _: True, finish)))
    assert finished == list(range(len(kinds)))
    reasons = {"poison": "not_json", "refused": "bad_id", "culprit": "handler_error"}
    assert sorted(post.letters) == [(i, reasons[kind]) for i, kind in enumerate(kinds) if kind != "good"]
    assert store.effects == [i for i, kind in enumerate(kinds) if kind == "good"]


async def test_what_is_not_ours_any_more_is_neither_handled_nor_finished() -> None:
    ours, finished = True, list[int]()

    async def handle(deliveries: Sequence[Delivery]) -> Sequence[Refused]:
        nonlocal ours
        ours = False  # a rebalance takes the partition away while we wait
        raise Unavailable("down")

    async def finish(done: Sequence[Record]) -> None:
        finished.extend(record.source.offset for record in done)

    post = Post(random.Random(1))
    batch = Batch([record(i, kind) for i, kind in enumerate(["poison", "good", "good"])], lambda _: ours, finish)
    await make(handle, post).run(batch)
    assert finished == [0], "only what ended before"


async def test_a_handler_that_refuses_what_it_was_not_given_loses_nothing() -> None:
    stranger = Delivery(events.decode(topics.INTERACTIONS, record(9, "good").value), record(9, "good").source)

    async def handle(_: Sequence[Delivery]) -> Sequence[Refused]:
        return [Refused(stranger, "bad_id", "no")]

    async def finish(_: Sequence[Record]) -> None:
        pass

    post = Post(random.Random(1))
    await make(handle, post).run(Batch([record(0, "good")], lambda _: True, finish))
    assert post.letters == [(0, "handler_error")]


async def test_a_stop_ends_a_back_off_and_leaves_the_rest() -> None:
    stopping, finished = asyncio.Event(), list[int]()

    async def handle(_: Sequence[Delivery]) -> Sequence[Refused]:
        stopping.set()
        raise Unavailable("down")

    async def finish(done: Sequence[Record]) -> None:
        finished.extend(record.source.offset for record in done)

    batch = Batch([record(0, "good")], lambda _: True, finish)
    with pytest.raises(Stopped):
        await make(handle, Post(random.Random(1)), stopping).run(batch)
    assert not finished


def test_delays_double_up_to_a_bound_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    delays = batches._delays()
    bound = batches.FIRST_DELAY_SECONDS
    for _ in range(20):
        assert bound / 2 <= next(delays) <= bound
        bound = min(bound * 2, batches.LONGEST_DELAY_SECONDS)
