"""EventService: an event is valid, then in Kafka on every in-sync replica, and only then answered."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Protocol

from services.gateway import metrics
from services.gateway.convert import event_of, position_of
from services.gateway.settings import GatewaySettings
from shared import events
from shared.errors import InvalidRequest, Overloaded, Unauthenticated, Unavailable
from shared.events import Event, InvalidEvent, Source
from shared.pb.finestream.v1 import event_pb2, event_pb2_grpc
from shared.pb.finestream.v1.position_pb2 import Position

SERVICE_NAME = "finestream.v1.EventService"
MAX_TRACE_CHARS = 128
Headers = tuple[tuple[str, bytes], ...]


class Sender(Protocol):
    """What writes events; shared.kafka.Producer is one."""

    async def send(self, topic: str, event: Event, headers: Headers = ()) -> Source: ...


class EventService(event_pb2_grpc.EventServiceServicer):
    """Publish and PublishStream. `max_in_flight` bounds all callers together: more is refused at once."""

    def __init__(self, sender: Sender, settings: GatewaySettings) -> None:
        self._sender = sender
        self._settings = settings
        self._in_flight = 0

    async def Publish(  # noqa: N802  # named by the protocol
        self, request: event_pb2.PublishRequest, context: Any
    ) -> event_pb2.PublishResponse:
        topic, event = self._valid(request)
        self._admit()
        try:
            return event_pb2.PublishResponse(position=await self._send(topic, event, _headers(context)))
        finally:
            self._release()

    async def PublishStream(  # noqa: N802
        self, request_iterator: AsyncIterator[event_pb2.PublishStreamRequest], context: Any
    ) -> event_pb2.PublishStreamResponse:
        window = _Window(self._settings.max_in_flight_per_stream)
        headers = _headers(context)
        try:
            try:
                async for request in request_iterator:
                    await self._send_in(window, request, headers)
            except InvalidRequest as error:
                await window.drain()  # what came before it is acknowledged before the stream ends
                raise InvalidRequest(f"event {window.sent}: {error}", error.field) from error
            except Unauthenticated:
                await window.drain()
                raise
            await window.drain()
        except Unavailable as error:
            raise Unavailable(
                f"{error}; of this stream the first {window.acknowledged} events are in Kafka, send the others again"
            ) from error
        finally:
            await window.abandon()
        return event_pb2.PublishStreamResponse(published=window.acknowledged, last=window.last())

    async def _send_in(self, window: "_Window", request: event_pb2.PublishStreamRequest, headers: Headers) -> None:
        topic, event = self._valid(request)
        await self._admit_to(window)
        sending = asyncio.ensure_future(self._send(topic, event, headers))
        sending.add_done_callback(self._release)  # also when it is cancelled before its first step
        await window.add(sending)

    def _valid(self, request: event_pb2.PublishRequest | event_pb2.PublishStreamRequest) -> tuple[str, Event]:
        try:
            return event_of(request, self._settings.max_event_bytes)
        except InvalidRequest as error:
            cause = error.__cause__
            metrics.REFUSED.labels(cause.reason if isinstance(cause, InvalidEvent) else "invalid_request").inc()
            raise

    def _admit(self) -> None:
        if self._in_flight >= self._settings.max_in_flight:
            metrics.REFUSED.labels("overloaded").inc()
            raise Overloaded(
                f"{self._in_flight} events wait for Kafka; send this one again after a pause that grows with each try"
            )
        self._in_flight += 1
        metrics.IN_FLIGHT.set(self._in_flight)

    async def _admit_to(self, window: "_Window") -> None:
        # A stream slows down before it is refused: its own acknowledgements make room.
        while self._in_flight >= self._settings.max_in_flight and window.waiting:
            await window.settle_oldest()
        self._admit()

    def _release(self, _: object = None) -> None:
        self._in_flight -= 1
        metrics.IN_FLIGHT.set(self._in_flight)

    async def _send(self, topic: str, event: Event, headers: Headers) -> Position:
        started = time.perf_counter()
        try:
            source = await self._sender.send(topic, event, headers)
        except Unavailable:
            metrics.REFUSED.labels("unavailable").inc()
            raise
        metrics.PUBLISHED.labels(topic).inc()
        metrics.PUBLISH_SECONDS.observe(time.perf_counter() - started)
        return position_of(source, events.key_of(event))


class _Window:
    """Sends of one stream that wait for their acknowledgement, oldest first, at most `size` of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: deque[asyncio.Future[Position]] = deque()
        self._last: dict[tuple[str, int], Position] = {}
        self.sent = 0
        self.acknowledged = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def add(self, sending: "asyncio.Future[Position]") -> None:
        self._waiting.append(sending)
        self.sent += 1
        while len(self._waiting) >= self._size:
            await self.settle_oldest()

    async def settle_oldest(self) -> None:
        position = await self._waiting.popleft()
        self.acknowledged += 1
        place = (position.topic, position.partition)
        if place not in self._last or position.offset > self._last[place].offset:
            self._last[place] = position

    async def drain(self) -> None:
        while self._waiting:
            await self.settle_oldest()

    async def abandon(self) -> None:
        """After a failure or a caller that left: no task outlives the call."""
        for sending in self._waiting:
            sending.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        self._waiting.clear()

    def last(self) -> list[Position]:
        return [self._last[place] for place in sorted(self._last)]


def _headers(context: Any) -> Headers:
    """The caller's W3C trace context travels with its events."""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent" and len(value) <= MAX_TRACE_CHARS:
            return (("traceparent", value.encode() if isinstance(value, str) else value),)
    return ()
