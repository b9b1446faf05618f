"""services/gateway/event_service.py: what is in flight is bounded, and nothing is answered before its ack."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from services.gateway.event_service import EventService
from services.gateway.settings import GatewaySettings
from shared.errors import InvalidRequest, Overloaded, Unauthenticated, Unavailable
from shared.events import Event, Interaction, Source
from shared.pb.finestream.v1.event_pb2 import Interaction as Message
from shared.pb.finestream.v1.event_pb2 import PublishRequest, PublishStreamRequest
from tests.parts import until


class Log:
    """A test double of the producer: acknowledges when it is told to, fails from the event that is named on."""

    def __init__(self, *, fails_at: str = "") -> None:
        self.sent: list[str] = []
        self.headers: list[Any] = []
        self.acknowledging = asyncio.Event()
        self.acknowledging.set()
        self._fails_at = fails_at

    async def send(self, topic: str, event: Event, headers: Any = ()) -> Source:
        assert isinstance(event, Interaction)
        offset = len(self.sent)
        self.sent.append(event.event_id)
        self.headers.append(headers)
        await self.acknowledging.wait()
        if event.event_id == self._fails_at:
            raise Unavailable("Kafka did not acknowledge the record")
        return Source(topic, offset % 2, offset, 1e9)


class Context:
    def __init__(self, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._metadata


def service(log: Log, **settings: int) -> EventService:
    return EventService(log, GatewaySettings(**settings))


def click(event_id: str, user_id: str = "u") -> Message:
    return Message(event_id=event_id, user_id=user_id, item_id="i", ts=1e9)


async def stream(messages: Sequence[Message]) -> AsyncIterator[PublishStreamRequest]:
    for message in messages:
        yield PublishStreamRequest(interaction=message)


async def test_publish_answers_only_after_the_acknowledgement() -> None:
    log = Log()
    log.acknowledging.clear()
    call = asyncio.create_task(service(log).Publish(PublishRequest(interaction=click("1")), Context()))
    await until(lambda: log.sent == ["1"], 5, "the event is sent")
    assert not call.done()
    log.acknowledging.set()
    assert (await call).position.offset == 0


async def test_more_in_flight_than_the_limit_is_refused_at_once_and_room_comes_back() -> None:
    log = Log()
    log.acknowledging.clear()
    events = service(log, max_in_flight=2)
    calls = [asyncio.create_task(events.Publish(PublishRequest(interaction=click(n)), Context())) for n in "12"]
    await until(lambda: len(log.sent) == 2, 5, "both are sent")
    with pytest.raises(Overloaded, match="2 events wait for Kafka"):
        await events.Publish(PublishRequest(interaction=click("3")), Context())
    calls[0].cancel()  # its caller left
    log.acknowledging.set()
    await asyncio.wait(calls)
    assert (await events.Publish(PublishRequest(interaction=click("4")), Context())).position.offset == 2


async def test_a_stream_answers_the_last_position_of_each_partition() -> None:
    answer = await service(Log()).PublishStream(stream([click(str(n)) for n in range(5)]), Context())
    assert answer.published == 5
    assert [(p.topic, p.partition, p.offset) for p in answer.last] == [("interactions", 0, 4), ("interactions", 1, 3)]


async def test_a_stream_keeps_no_more_in_flight_than_its_window() -> None:
    log = Log()
    log.acknowledging.clear()
    events = service(log, max_in_flight_per_stream=3)
    call = asyncio.create_task(events.PublishStream(stream([click(str(n)) for n in range(10)]), Context()))
    await until(lambda: len(log.sent) == 3, 5, "the window fills")
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(log.sent) == 3
    log.acknowledging.set()
    assert (await call).published == 10


async def test_a_stream_slows_down_at_the_overall_limit_instead_of_failing() -> None:
    answer = await service(Log(), max_in_flight=2).PublishStream(stream([click(str(n)) for n in range(50)]), Context())
    assert answer.published == 50


async def test_an_invalid_event_ends_the_stream_after_those_before_it_are_acknowledged() -> None:
    log = Log()
    log.acknowledging.clear()
    messages = [click("0"), click("1"), click("2", user_id=""), click("3")]
    call = asyncio.create_task(service(log).PublishStream(stream(messages), Context()))
    await until(lambda: len(log.sent) == 2, 5, "the valid ones are sent")
    for _ in range(20):
        await asyncio.sleep(0)
    assert not call.done(), "it answered before the acknowledgement"
    log.acknowledging.set()
    with pytest.raises(InvalidRequest, match="event 2: user_id is required") as caught:
        await call
    assert caught.value.field == "user_id"
    assert log.sent == ["0", "1"]


async def test_a_token_that_is_revoked_ends_the_stream_after_the_events_before_are_acknowledged() -> None:
    async def revoked() -> AsyncIterator[PublishStreamRequest]:
        yield PublishStreamRequest(interaction=click("0"))
        raise Unauthenticated("the token has been revoked")

    log = Log()
    log.acknowledging.clear()
    call = asyncio.create_task(service(log).PublishStream(revoked(), Context()))
    await until(lambda: log.sent == ["0"], 5, "the event is sent")
    for _ in range(20):
        await asyncio.sleep(0)
    assert not call.done(), "it answered before the acknowledgement"
    log.acknowledging.set()
    with pytest.raises(Unauthenticated):
        await call


async def test_a_failure_within_a_stream_says_how_many_events_are_in_kafka_and_leaves_nothing_in_flight() -> None:
    events = service(Log(fails_at="3"), max_in_flight=8, max_in_flight_per_stream=8)
    with pytest.raises(Unavailable, match="the first 3 events are in Kafka"):
        await events.PublishStream(stream([click(str(n)) for n in range(7)]), Context())
    answer = await events.PublishStream(stream([click(f"again {n}") for n in range(8)]), Context())
    assert answer.published == 8


async def test_a_caller_that_leaves_its_stream_frees_its_room() -> None:
    log = Log()
    log.acknowledging.clear()
    events = service(log, max_in_flight=4, max_in_flight_per_stream=4)
    call = asyncio.create_task(events.PublishStream(stream([click(str(n)) for n in range(9)]), Context()))
    await until(lambda: len(log.sent) >= 3, 5, "events are in flight")
    call.cancel()
    await asyncio.wait([call])
    log.acknowledging.set()
    assert (await events.PublishStream(stream([click("a"), click("b"), click("c"), click("d")]), Context())).published


async def test_the_callers_trace_context_travels_with_the_event() -> None:
    log = Log()
    await service(log).Publish(PublishRequest(interaction=click("1")), Context([("traceparent", "00-ab-cd-01")]))
    assert log.headers == [(("traceparent", b"00-ab-cd-01"),)]
