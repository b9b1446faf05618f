"""shared/door: calls of a port whose process is not the service's."""

import asyncio
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY
from pydantic import SecretStr

from shared import errors
from shared.door.calls import Admit, Begin, OpenDoor, open_door
from shared.door.frames import ANSWER, pack
from shared.pb.finestream.v1 import event_pb2_grpc, extractor_pb2, extractor_pb2_grpc
from shared.pb.finestream.v1.extractor_pb2 import ExtractRequest
from shared.service import Health
from shared.settings import GrpcSettings, ServiceSettings
from tests.parts import until
from tests.running import children
from tests.shared.door.doors import in_threads, with_settings

PLACES = 4
METHOD = "/finestream.v1.ExtractorService/Extract"
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


class Waiting(extractor_pb2_grpc.ExtractorServiceServicer):
    """A test double: answers at once, or when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.seconds: list[float | None] = []
        self.cancelled = 0

    async def Extract(self, request: Any, context: Any) -> Any:
        self.seconds.append(context.time_remaining())
        if request.text == "wait":
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return extractor_pb2.ExtractResponse(extractor=request.text)


class World:
    def __init__(self, door: OpenDoor, service: Waiting, channel: grpc.aio.Channel, full: list[float]) -> None:
        self.door = door
        self.full = full
        self.service = service
        self.channel = channel
        self.stub = extractor_pb2_grpc.ExtractorServiceStub(channel)

    def ask(self, text: str, timeout: float | None = 20.0) -> Any:
        return self.stub.Extract(ExtractRequest(text=text), timeout=timeout)

    async def waiting(self, count: int) -> list[Any]:
        """So many calls that are with the service."""
        before = len(self.service.seconds)
        calls = [self.ask("wait") for _ in range(count)]
        await until(lambda: len(self.service.seconds) == before + count, 10, "the service has them")
        return calls


@asynccontextmanager
async def opened(begin: Begin | None = in_threads, admit: Admit | None = None) -> AsyncIterator[World]:
    service, health = Waiting(), Health()

    def register(server: Any) -> None:
        extractor_pb2_grpc.add_ExtractorServiceServicer_to_server(service, server)

    full: list[float] = []
    door = await open_door(ServiceSettings(), "example", register, health, PLACES, full.append, admit, begin)
    health.ready()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{door.port}") as channel:
            yield World(door, service, channel, full)
    finally:
        await door.stop(0)


async def code_of(call: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = await call.code()
    return code


async def test_of_more_calls_than_there_are_places_the_rest_is_refused_while_the_service_computes() -> None:
    codes: Counter[grpc.StatusCode] = Counter()
    refused = threading.Event()

    def note(call: Any) -> None:
        codes[call.code()] += 1
        if codes[FULL] == 60 - PLACES:
            refused.set()

    async with opened() as world:
        with grpc.insecure_channel(f"127.0.0.1:{world.door.port}") as channel:
            extract = extractor_pb2_grpc.ExtractorServiceStub(channel).Extract
            # Of those that found a place not even the messages have room while nobody reads.
            calls = [extract.future(ExtractRequest(text="t" * 1_000_000), timeout=30) for _ in range(60)]
            for call in calls:
                call.add_done_callback(note)
            assert refused.wait(30)  # while the event loop stands still
            assert set(codes) == {FULL}
            await until(lambda: codes.total() == len(calls), 30, "all calls end")
    assert codes == {FULL: 60 - PLACES, grpc.StatusCode.OK: PLACES}


async def test_who_leaves_or_is_out_of_time_ends_the_work_and_leaves_the_place_to_others() -> None:
    async with opened() as world:
        for end in ("cancel", "deadline"):
            if end == "cancel":
                for call in await world.waiting(PLACES):
                    call.cancel()
            else:
                calls = [world.ask("wait", timeout=0.2) for _ in range(PLACES)]
                assert {await code_of(call) for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
            await until(lambda: world.service.cancelled == len(world.service.seconds), 10, "the work has ended")

            async def answered() -> bool:
                return await code_of(world.ask("at once")) is grpc.StatusCode.OK

            await until(answered, 10, "there is a place")
            world.service.seconds, world.service.cancelled = [], 0


async def test_the_service_is_told_how_long_the_caller_waits_or_that_it_said_nothing() -> None:
    async with opened() as world:
        await world.ask("a", timeout=None)
        await world.ask("b", timeout=7.0)
    none, seven = world.service.seconds
    assert none is None
    assert seven is not None
    assert 5.0 < seven < 8.0  # gRPC rounds it


async def test_answers_come_to_those_who_asked_and_long_ones_come_whole() -> None:
    async with opened() as world:
        texts = [letter * (1 + 400_000 * n) for n, letter in enumerate("abcd")]
        answers = await asyncio.gather(*(world.ask(text) for text in texts))
    assert [answer.extractor for answer in answers] == texts


async def test_what_is_not_admitted_is_refused_before_its_message_is_parsed() -> None:
    def admit(_: Any) -> None:
        raise errors.Overloaded("too much — später")

    async with opened(admit=admit) as world:
        for message in (b"", b"no message at all"):
            call = world.channel.unary_unary(METHOD)(message, timeout=5)
            assert (await call.code(), await call.details()) == (FULL, "too much — später")
        await health_pb2_grpc.HealthStub(world.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)


async def test_a_door_that_is_told_to_stop_waits_for_calls_within_the_grace_and_ends_the_rest() -> None:
    async with opened() as world:
        (call,) = await world.waiting(1)
        stopping = asyncio.create_task(world.door.stop(20))
        refused = health_pb2_grpc.HealthStub(world.channel)

        async def closing() -> bool:
            try:
                await refused.Check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNAVAILABLE
            return False

        await until(closing, 10, "nothing more is taken")
        world.service.go.set()
        assert (await call).extractor == "wait"
        await stopping
    async with opened() as world:
        (call,) = await world.waiting(1)
        await world.door.stop(0)
        assert await code_of(call) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        await until(lambda: world.service.cancelled == 1, 10, "nobody works for it")


async def test_a_door_that_does_not_understand_its_service_ends_and_says_so() -> None:
    async with opened() as world:
        (call,) = await world.waiting(1)
        (number,) = world.door._calls._tasks
        world.door._calls.send(pack(ANSWER, number, 99))  # no status
        with pytest.raises(errors.Unavailable, match="port has ended"):
            await asyncio.wait_for(world.door.lost(), 10)
        assert await code_of(call) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_a_token_is_asked_for_at_the_door() -> None:
    async with opened(with_settings(GrpcSettings(token=SecretStr("secret")))) as world:
        assert await code_of(world.ask("a")) is grpc.StatusCode.UNAUTHENTICATED
        assert world.service.seconds == []


async def test_a_service_with_streams_has_no_door() -> None:
    def register(server: Any) -> None:
        event_pb2_grpc.add_EventServiceServicer_to_server(event_pb2_grpc.EventServiceServicer(), server)

    with pytest.raises(ValueError, match="no streams: PublishStream"):
        await open_door(ServiceSettings(), "example", register, Health(), PLACES, print)


# --- as a process -------------------------------------------------------------------------------------------------


async def test_no_door_outlives_a_service_that_is_killed_whoever_waits_there() -> None:
    command = [sys.executable, "-m", "tests.shared.door.silent_service"]
    service = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert service.stdout is not None
    try:
        while not (line := await service.stdout.readline()).strip().isdigit():
            assert line, "it has ended"
        (door,) = children(service.pid)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{int(line)}") as channel:
            stub = extractor_pb2_grpc.ExtractorServiceStub(channel)
            calls = [asyncio.ensure_future(code_of(stub.Extract(ExtractRequest(), timeout=60))) for _ in range(5)]
            assert [await service.stdout.readline() for _ in calls] == [b"asked\n"] * 5
            service.kill()
            await until(lambda: not Path(f"/proc/{door}").exists(), 10, "the door has ended")
            codes = await asyncio.gather(*calls)
    finally:
        if service.returncode is None:
            service.kill()
            await service.wait()
    assert set(codes) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def unauthenticated() -> float:
    labels = {"reason": "unauthenticated", "token": ""}
    return REGISTRY.get_sample_value("finestream_rpc_refused_total", labels) or 0.0


async def test_what_the_process_has_refused_the_service_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESTREAM_GRPC_TOKEN", "secret")
    before = unauthenticated()
    async with opened(None) as world:
        known = (("authorization", "Bearer secret"),)
        with pytest.raises(grpc.aio.AioRpcError):
            await world.ask("nobody")
        calls = [world.stub.Extract(ExtractRequest(text="wait"), timeout=20, metadata=known) for _ in range(PLACES + 3)]
        await until(lambda: sum(world.full) == 3, 10, "those that found no place are counted")
        await until(lambda: unauthenticated() == before + 1, 10, "who is not known is counted")
        assert await code_of(world.stub.Extract(ExtractRequest(text="wait"), timeout=20, metadata=known)) is FULL
        world.service.go.set()
        await world.door.stop(5)
        assert Counter([await code_of(call) for call in calls]) == {grpc.StatusCode.OK: PLACES, FULL: 3}
    assert (sum(world.full), unauthenticated()) == (4, before + 1), "also what was refused last"


async def test_a_door_whose_process_is_killed_is_lost() -> None:
    before = children("self")
    async with opened(None) as world:
        (pid,) = children("self") - before
        (call,) = await world.waiting(1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(errors.Unavailable, match="port has ended"):
            await asyncio.wait_for(world.door.lost(), 10)
        await until(lambda: world.service.cancelled == 1, 10, "nobody works for it")
        assert await code_of(call) is grpc.StatusCode.UNAVAILABLE


async def test_a_door_leaves_signals_to_the_service() -> None:
    before = children("self")
    async with opened(None) as world:
        (pid,) = children("self") - before
        for sign in (signal.SIGTERM, signal.SIGINT):
            os.kill(pid, sign)
        assert (await world.ask("still there")).extractor == "still there"
