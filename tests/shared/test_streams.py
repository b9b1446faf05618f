"""Streams over a real broker: nothing is lost, whatever fails; what can never succeed is a dead letter."""

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from shared import dead_letters, events, faust_session, stream_metrics, streams, topics
from shared.dead_letters import Letter
from shared.errors import Unavailable
from shared.events import Interaction
from shared.faust_fetches import Fetch
from shared.kafka import Producer, client_options, ensure_topics, group_of
from shared.local.broker import Broker
from shared.service import Health
from shared.settings import KafkaSettings
from shared.streams import Delivery, Refused, Stream
from tests.parts import Raw, committed, free_port, produce, read_topic, until

NOW = time.time()
POISON = {  # bytes, and the reason that they must be refused with
    b"{": "not_json",
    b"[1, 2]": "wrong_type",
    b'{"event_id": "e"}': "missing_field",
    None: "missing_field",
}


def interaction(name: str, user: str = "u") -> Interaction:
    return Interaction(event_id=name, user_id=user, item_id="i", ts=NOW)


def raw(name: str, partition: int = 0) -> Raw:
    return Raw(b"u", events.encode(interaction(name)), partition)


class Seen:
    """A handler that remembers. `before` may fail a call before its effect."""

    def __init__(self, before: Callable[[Sequence[Delivery]], Awaitable[None]] | None = None) -> None:
        self.deliveries: list[Delivery] = []
        self.calls = 0
        self._before = before

    async def __call__(self, deliveries: Sequence[Delivery]) -> Sequence[Refused]:
        self.calls += 1
        if self._before:
            await self._before(deliveries)
        self.deliveries.extend(deliveries)
        return []

    @property
    def names(self) -> list[str]:
        return [name_of(d) for d in self.deliveries]


def name_of(delivery: Delivery) -> str:
    assert isinstance(delivery.event, Interaction)
    return delivery.event.event_id


async def read_letters(kafka: KafkaSettings) -> list[Letter]:
    """The dead letters of interactions, in the order of what they are of."""
    found = await read_topic(kafka, topics.dead_letters(topics.INTERACTIONS))
    letters = [dead_letters.read(r.value, r.headers) for r in found]
    return sorted(letters, key=lambda letter: (letter.record.source.partition, letter.record.source.offset))


Start = Callable[..., contextlib.AbstractAsyncContextManager[Stream]]


@pytest.fixture
def running(kafka_settings: KafkaSettings, producer: Producer) -> Start:
    @contextlib.asynccontextmanager
    async def run(handle: streams.Handler, **options: Any) -> AsyncIterator[Stream]:
        settings = {"kafka": kafka_settings, "producer": producer, "health": Health(), **options}
        stream = Stream(
            settings.pop("name", "tested"), settings.pop("topics", [topics.INTERACTIONS]), handle, **settings
        )
        await stream.start()
        try:
            yield stream
        finally:
            await stream.stop()

    return run


async def test_valid_events_are_handled_and_poison_is_a_dead_letter(
    kafka_settings: KafkaSettings, running: Start
) -> None:
    poison = [Raw(b"key", value, partition=p, headers=(("trace", b"7"),)) for p in range(2) for value in POISON]
    records = [r for i, bad in enumerate(poison) for r in (raw(f"e{i}", i % 4), bad)] + [raw("last", 1)]
    placed = await produce(kafka_settings, topics.INTERACTIONS, records)
    handle = Seen()
    async with running(handle):
        await until(lambda: len(set(handle.names)) == len(poison) + 1, 20, "every valid event is handled")
        await until(lambda: drained(kafka_settings, placed), 10, "every offset is committed, null values included")
    letters = await read_letters(kafka_settings)
    where = {at: record for at, record in zip(placed, records, strict=True) if record.key == b"key"}
    assert sorted((found.record.source.partition, found.record.source.offset) for found in letters) == sorted(where)
    for letter in letters:
        original = where[letter.record.source.partition, letter.record.source.offset]
        assert letter.record.value == original.value
        assert (letter.record.key, letter.record.headers) == (b"key", (("trace", b"7"),))
        assert letter.reason == POISON[original.value]
        assert letter.record.source.topic == topics.INTERACTIONS
        assert letter.record.source.appended_at == pytest.approx(time.time(), abs=60)
        assert letter.group == group_of(kafka_settings, "tested")
        assert letter.error


async def drained(kafka: KafkaSettings, placed: Sequence[tuple[int, int]], name: str = "tested") -> bool:
    end: dict[int, int] = defaultdict(int)
    for partition, offset in placed:
        end[partition] = max(end[partition], offset + 1)
    now = await committed(kafka, name, topics.INTERACTIONS)
    return all(now[partition] == offset for partition, offset in end.items())


async def test_transient_failures_lose_nothing_and_commit_nothing_meanwhile(
    kafka_settings: KafkaSettings, running: Start
) -> None:
    # A dead letter between valid ones: finishing it first would let Faust's timed commit pass the one before it.
    records = [raw("a"), Raw(b"u", b"{", 0), raw("b"), raw("c"), Raw(b"u", None, 1), raw("d", 1)]
    placed = await produce(kafka_settings, topics.INTERACTIONS, records)
    down = True

    async def store(_: Sequence[Delivery]) -> None:
        if down:
            raise Unavailable("the store does not answer")

    handle, health = Seen(store), Health()
    async with running(handle, health=health, stuck_seconds=2.0):
        until_commit = asyncio.get_running_loop().time() + 3.0  # Faust commits by itself every second
        await until(lambda: handle.calls >= 4, 20, "the handler is tried again and again")
        await until(lambda: stream_metrics.BACKING_OFF.labels("tested")._value.get() == 1, 5, "the back-off shows")
        while asyncio.get_running_loop().time() < until_commit:
            offsets = await committed(kafka_settings, "tested", topics.INTERACTIONS)
            assert offsets[0] == 0, "nothing behind an event without effect is committed"
            assert not handle.deliveries
            await asyncio.sleep(0.1)
        assert health.silent() == [], "waiting for another part is no reason to be restarted"
        down = False
        await until(lambda: set(handle.names) == {"a", "b", "c", "d"}, 40, "everything is handled in the end")
        await until(lambda: drained(kafka_settings, placed), 10, "and committed")
    assert handle.names.count("a") == 1


async def test_stop_during_a_back_off_leaves_the_batch_to_be_read_again(
    kafka_settings: KafkaSettings, running: Start
) -> None:
    await produce(kafka_settings, topics.INTERACTIONS, [raw("a"), Raw(b"u", b"{", 0), raw("b")])

    async def down(_: Sequence[Delivery]) -> None:
        raise Unavailable("the store does not answer")

    failing, working = Seen(down), Seen()
    started = time.monotonic()
    async with running(failing):
        await until(lambda: failing.calls >= 5, 20, "the handler is tried again")
        started = time.monotonic()
    assert time.monotonic() - started < 5, "a stop does not wait for a back-off"
    async with running(working):
        await until(lambda: working.names[-2:] == ["a", "b"], 20, "nothing is missing")


async def test_an_unexpected_exception_buries_only_its_culprit(kafka_settings: KafkaSettings, running: Start) -> None:
    names = [f"e{i}" for i in range(40)]
    await produce(kafka_settings, topics.INTERACTIONS, [raw(name, i % 4) for i, name in enumerate(names)])
    tried: Counter[str] = Counter()

    async def defect(deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if name_of(delivery) in ("e7", "e22"):
                tried[name_of(delivery)] += 1
                raise KeyError("no such attribute")

    handle = Seen(defect)
    async with running(handle):
        await until(lambda: len(set(handle.names)) == 38, 30, "the others are handled")
        await until(lambda: has(kafka_settings, "interactions.dlq", 2), 20, "both culprits are dead letters")
    letters = await read_letters(kafka_settings)
    assert {events.decode(topics.INTERACTIONS, letter.record.value) for letter in letters} == {
        interaction("e7"), interaction("e22"),
    }  # fmt: skip
    assert {(letter.reason, letter.attempt) for letter in letters} == {("handler_error", 3)}
    assert "no such attribute" in letters[0].error
    assert min(tried.values()) >= 3


async def has(kafka: KafkaSettings, topic: str, count: int) -> bool:
    return len(await read_topic(kafka, topic)) >= count


async def test_what_the_handler_refuses_is_a_dead_letter_with_its_reason(
    kafka_settings: KafkaSettings, running: Start
) -> None:
    placed = await produce(kafka_settings, topics.INTERACTIONS, [raw(f"e{i}") for i in range(10)])
    accepted: list[str] = []

    async def handle(deliveries: Sequence[Delivery]) -> Sequence[Refused]:
        refused = [Refused(d, "out_of_bounds", "an odd one") for d in deliveries if int(name_of(d)[1:]) % 2]
        accepted.extend(name_of(d) for d in deliveries if not int(name_of(d)[1:]) % 2)
        return refused

    async with running(handle):
        await until(lambda: drained(kafka_settings, placed), 20, "all is committed")
    letters = await read_letters(kafka_settings)
    assert accepted == ["e0", "e2", "e4", "e6", "e8"]
    assert [letter.record.source.offset for letter in letters] == [1, 3, 5, 7, 9]
    assert {(letter.reason, letter.error) for letter in letters} == {("out_of_bounds", "an odd one")}


async def test_stop_and_start_in_the_middle_loses_nothing_and_repeats_nothing(
    kafka_settings: KafkaSettings, running: Start
) -> None:
    names = [f"e{i}" for i in range(600)]
    await produce(kafka_settings, topics.INTERACTIONS, [raw(name, i % 4) for i, name in enumerate(names)])

    async def slow(_: Sequence[Delivery]) -> None:
        await asyncio.sleep(0.05)

    handle = Seen(slow)
    for part in (150, 400, 600):
        async with running(handle, batch_size=20):
            await until(lambda part=part: len(set(handle.names)) >= part, 30, f"{part} events are handled")  # type: ignore[misc]
    # The batch in hand is finished and committed before the stream stops, so a clean stop repeats nothing.
    assert Counter(handle.names) == Counter(names)


async def test_order_holds_in_every_partition(kafka_settings: KafkaSettings, running: Start) -> None:
    both = [topics.INTERACTIONS, topics.ERASURES]
    rng = random.Random(5)
    for topic in both:
        values = [
            events.encode(
                interaction(f"e{i}") if topic == topics.INTERACTIONS else events.Erasure(user_id="u", erased_at=NOW)
            )
            for i in range(300)
        ]
        await produce(kafka_settings, topic, [Raw(b"u", value, rng.randrange(4)) for value in values])

    async def sometimes(deliveries: Sequence[Delivery]) -> None:
        if rng.random() < 0.2:
            raise Unavailable("the store does not answer")

    handle = Seen(sometimes)
    async with running(handle, topics=both, batch_size=30):
        await until(lambda: len({d.source for d in handle.deliveries}) == 600, 40, "all are handled")
    offsets: dict[tuple[str, int], list[int]] = defaultdict(list)
    for delivery in handle.deliveries:
        offsets[delivery.source.topic, delivery.source.partition].append(delivery.source.offset)
    assert len(offsets) == 8
    for seen in offsets.values():
        assert seen == list(range(len(seen)))


@pytest.mark.parametrize("whole_fetches", ["true", pytest.param("false", marks=pytest.mark.slow)])
async def test_sigkill_at_random_points_loses_nothing(
    kafka_settings: KafkaSettings, whole_fetches: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FINESTREAM_KAFKA_WHOLE_FETCHES", whole_fetches)
    chance = random.Random(11)
    records = [raw(f"e{i}", chance.randrange(4)) for i in range(4000)]
    for at in range(50, 4000, 400):
        records[at] = Raw(b"poison", b"{", chance.randrange(4))
    placed = await produce(kafka_settings, topics.INTERACTIONS, records)
    valid = {f"e{i}" for i, record in enumerate(records) if record.key == b"u"}
    effects = tmp_path / "effects"
    for kill in range(5):
        with child(effects, kill) as process:
            goal = count(effects) + chance.randrange(1, 500)
            await until(lambda goal=goal: count(effects) >= goal, 30, "the child makes progress")  # type: ignore[misc]
            await asyncio.sleep(chance.uniform(0.0, 0.03))
            process.send_signal(signal.SIGKILL)
    with child(effects, 99) as process:
        await until(lambda: valid <= set(effect_names(effects)), 40, "nothing is missing")
        await until(lambda: drained(kafka_settings, placed, "victim"), 10, "everything is committed")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert len(effect_names(effects)) < 1.5 * len(valid), "repeats are bounded by a batch a kill"
    buried = {
        (found.record.source.partition, found.record.source.offset) for found in await read_letters(kafka_settings)
    }
    assert buried == {at for at, record in zip(placed, records, strict=True) if record.key == b"poison"}


@contextlib.contextmanager
def child(effects: Path, seed: int) -> Any:
    process = subprocess.Popen([sys.executable, "-m", "tests.shared.stream_child", str(effects), str(seed)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def effect_names(effects: Path) -> list[str]:
    if not effects.exists():
        return []
    lines = effects.read_text().splitlines()
    return [parts[2] for parts in map(str.split, lines) if len(parts) == 3]


def count(effects: Path) -> int:
    return len(set(effect_names(effects)))


@pytest.mark.parametrize("kafka_partitions", [3])
@pytest.mark.parametrize("whole_fetches", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_a_worker_that_joins_shares_the_partitions_and_loses_nothing(
    kafka_settings: KafkaSettings, running: Start, whole_fetches: bool
) -> None:
    # Three partitions: dealing them out in turn, topic after topic, would part those that belong together.
    kafka = kafka_settings.model_copy(update={"whole_fetches": whole_fetches})
    both = [topics.INTERACTIONS, topics.ERASURES]
    erasure = events.encode(events.Erasure(user_id="u", erased_at=NOW))
    names = [f"e{i}" for i in range(400)]

    async def slow(_: Sequence[Delivery]) -> None:
        await asyncio.sleep(0.02)

    first, second = Seen(slow), Seen(slow)
    await produce(kafka, topics.INTERACTIONS, [raw(n, i % 3) for i, n in enumerate(names)])
    async with running(first, kafka=kafka, topics=both, batch_size=10):
        await until(lambda: len(first.deliveries) > 50, 20, "the first worker works")
        async with running(second, kafka=kafka, topics=both, worker="1", batch_size=10):
            placed = await produce(kafka, topics.INTERACTIONS, [raw(f"n{i}", i % 3) for i in range(200)])
            await until(lambda: drained(kafka, placed), 40, "both finish everything")
            shared = len(first.deliveries), len(second.deliveries)
            placed = await produce(kafka, topics.INTERACTIONS, [raw(f"w{i}", i % 3) for i in range(30)])
            await produce(kafka, topics.ERASURES, [Raw(b"u", erasure, i % 3) for i in range(30)])
            await until(lambda: len(first.deliveries) + len(second.deliveries) == sum(shared) + 60, 20, "all come")
    handled = {d.source for seen in (first, second) for d in seen.deliveries if d.source.topic == topics.INTERACTIONS}
    assert len(handled) == 630
    owners: dict[int, set[int]] = defaultdict(set)
    for worker, seen in enumerate((first, second)):
        for delivery in seen.deliveries[shared[worker] :]:
            owners[delivery.source.partition].add(worker)
    assert sorted(map(len, owners.values())) == [1, 1, 1], "partition p of every topic is with one worker"
    assert set.union(*owners.values()) == {0, 1}, "both have work"


@pytest.mark.parametrize("whole_fetches", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_a_rebalance_before_the_first_commit_loses_nothing(
    kafka_settings: KafkaSettings, running: Start, whole_fetches: bool
) -> None:
    kafka = kafka_settings.model_copy(update={"whole_fetches": whole_fetches})
    names = [f"e{i}" for i in range(400)]
    await produce(kafka, topics.INTERACTIONS, [raw(n, i % 4) for i, n in enumerate(names)])
    down = True

    async def store(_: Sequence[Delivery]) -> None:
        if down:
            raise Unavailable("the store does not answer")

    first, second = Seen(store), Seen(store)
    async with running(first, kafka=kafka, batch_size=10):
        await until(lambda: first.calls > 1, 20, "the first worker backs off")
        for worker in ("1", "2"):
            async with running(second, kafka=kafka, worker=worker, batch_size=10):
                await until(lambda: second.calls > 1, 20, "another one has partitions and backs off, too")
            second.calls = 0
        down = False
        await until(lambda: len({*first.names, *second.names}) == 400, 60, "everything comes")


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("whole_fetches", [True, False])
async def test_what_faust_skips_after_a_rebalance_is_never_acknowledged(
    kafka_settings: KafkaSettings, running: Start, whole_fetches: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where Faust comes without its compiled part, it acknowledges a message of an older generation without handing
    # it out; committed, it would be lost.
    if not compiled:
        monkeypatch.setattr("faust.streams._CStreamIterator", None)
    session: list[faust_session.Session] = []
    plain = faust_session.Session.start

    async def remember(self: faust_session.Session) -> None:
        session.append(self)
        await plain(self)

    handle = Seen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faust_session.Session, "start", remember)
        async with running(handle, kafka=kafka_settings.model_copy(update={"whole_fetches": whole_fetches})):
            app = session[0]._app
            await produce(kafka_settings, topics.INTERACTIONS, [raw("a"), raw("b")])
            await until(lambda: handle.names == ["a", "b"], 20, "the stream works")
            (channel,) = app.topics
            message = await stale_message(app, channel, Fetch([], app.consumer.epoch - 1) if whole_fetches else b"{}")
            await until(lambda: channel.queue.empty(), 5, "Faust has taken the stale message")
            await produce(kafka_settings, topics.INTERACTIONS, [raw("c")])
            await until(lambda: handle.names == ["a", "b", "c"], 20, "the stream goes on without it")
            assert not message.acked
            assert message.offset not in app.consumer._acked_index[message.tp]


async def stale_message(app: Any, channel: Any, value: Any) -> Any:
    """Put a message as of an earlier generation on the agent's queue, as the conductor would."""
    from faust.types.tuples import TP, ConsumerMessage

    tp = TP(next(iter(channel.topics)), 0)
    message = ConsumerMessage(
        tp.topic, 0, 999, NOW, 1, [], b"u", value, None, 1, 2, tp, generation_id=app.consumer_generation_id - 1
    )
    message.incref(1)
    await channel.queue.put(await channel.decode(message))
    return message


async def test_a_handler_that_is_stuck_fails_liveness_and_an_idle_stream_does_not(
    kafka_settings: KafkaSettings, running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LAG_SECONDS", 0.5)
    release = asyncio.Event()

    async def stuck(_: Sequence[Delivery]) -> None:
        await release.wait()

    health = Health()
    async with running(Seen(stuck), health=health, stuck_seconds=2.5):
        idle_until = asyncio.get_running_loop().time() + 4.0
        while asyncio.get_running_loop().time() < idle_until:
            assert health.silent() == [], "an idle stream is alive"
            await asyncio.sleep(0.2)
        await produce(kafka_settings, topics.INTERACTIONS, [raw("a")])
        await until(lambda: health.silent() == ["stream tested"], 15, "a stuck handler shows")
        release.set()
        await until(lambda: health.silent() == [], 10, "and so does its end")
    assert health.silent() == []


async def test_the_lag_is_what_is_not_finished(
    kafka_settings: KafkaSettings, running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LAG_SECONDS", 0.5)
    release = asyncio.Event()

    async def wait(_: Sequence[Delivery]) -> None:
        await release.wait()

    def lag() -> float:
        return float(stream_metrics.LAG.labels("lagging", topics.INTERACTIONS)._value.get())

    await produce(kafka_settings, topics.INTERACTIONS, [raw(f"e{i}", i % 4) for i in range(100)])
    async with running(Seen(wait), name="lagging", batch_size=10):
        await until(lambda: lag() == 100, 15, "all records are behind")
        release.set()
        await until(lambda: lag() == 0, 15, "none is")


async def test_a_restart_of_the_broker_is_survived(tmp_path: Path) -> None:
    port = free_port()
    kafka = KafkaSettings(bootstrap=f"127.0.0.1:{port}", topic_prefix="r-")
    broker = Broker(tmp_path / "broker", port)
    await broker.start()
    await ensure_topics(kafka)
    producer, handle, health = Producer(kafka), Seen(), Health()
    await producer.start()
    stream = Stream("tested", [topics.INTERACTIONS], handle, kafka=kafka, producer=producer, health=health)
    await stream.start()
    try:
        await produce(kafka, topics.INTERACTIONS, [raw(f"a{i}", i % 4) for i in range(40)])
        await until(lambda: len(set(handle.names)) == 40, 20, "the stream works")
        broker.stop()
        await asyncio.sleep(1.0)
        await broker.start()
        await produce(kafka, topics.INTERACTIONS, [raw(f"b{i}", i % 4) for i in range(40)])
        await until(lambda: len(set(handle.names)) == 80, 40, "it goes on after the restart")
    finally:
        await stream.stop()
        await producer.stop()
        broker.stop()


async def test_a_consumer_that_crashed_is_built_anew(kafka_settings: KafkaSettings, running: Start) -> None:
    sessions: list[faust_session.Session] = []
    plain = faust_session.Session.start

    async def remember(self: faust_session.Session) -> None:
        sessions.append(self)
        await plain(self)

    handle = Seen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faust_session.Session, "start", remember)
        async with running(handle):
            await produce(kafka_settings, topics.INTERACTIONS, [raw("a")])
            await until(lambda: handle.names == ["a"], 20, "the stream works")
            await sessions[0]._app.consumer.crash(ConnectionError("the commit failed"))  # as Faust does by itself
            await produce(kafka_settings, topics.INTERACTIONS, [raw("b")])
            await until(lambda: handle.names[-1:] == ["b"], 30, "another consumer takes over")
    assert len(sessions) == 2


def test_a_topic_without_dead_letters_is_refused(kafka_environment: KafkaSettings) -> None:
    with pytest.raises(ValueError, match="dead-letter"):
        Stream(
            "x",
            [topics.ITEM_STATES],
            Seen(),
            kafka=kafka_environment,
            producer=Producer(kafka_environment),
            health=Health(),
        )


@pytest.mark.parametrize("security", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_faust_gets_the_security_that_every_other_client_gets(security: Any, mechanism: Any) -> None:
    kafka = KafkaSettings(security=security, sasl_mechanism=mechanism, sasl_username="me", sasl_password="secret")
    ours = {k: v for k, v in client_options(kafka).items() if k != "bootstrap_servers"}
    faust = {k: v for k, v in credentials_to_aiokafka_auth(faust_session._credentials(kafka)).items() if v is not None}
    assert ours.keys() == faust.keys()
    assert {k: v for k, v in ours.items() if k != "ssl_context"} == {
        k: v for k, v in faust.items() if k != "ssl_context"
    }
