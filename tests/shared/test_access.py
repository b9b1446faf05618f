"""shared/access.py at a real server: what each token may call, how often, and until when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY
from pydantic import SecretStr

from shared import rpc
from shared.access import SCOPE_OF
from shared.door.calls import open_door
from shared.pb.finestream import v1
from shared.service import Health
from shared.settings import GrpcSettings, ServiceSettings
from shared.tokens import digest
from tests.shared.door.doors import with_settings

EXPECTED = {
    "RankingService": ("rank", {"Rank", "RankBatch", "SimilarItems"}),
    "EventService": ("events", {"Publish", "PublishStream"}),
    "GraphService": ("admin", {"GetUsers", "GetItems", "SimilarUsers", "SimilarItems", "ForgetUser"}),
    "ExtractorService": ("admin", {"Extract"}),
}
PLACES = 8
AT_EITHER = pytest.mark.parametrize("door", [False, True], ids=["in the service", "at its door"])
RANK, PUBLISH, STREAM = (
    f"/finestream.v1.{name}" for name in ("RankingService/Rank", "EventService/Publish", "EventService/PublishStream")
)
OWN = "the services' own"
NO_MESSAGE = b"\xff no message of ours"
OK, STREAMED = b"", b"\x08\x03"


def services() -> dict[str, Any]:
    """Every service of ours by its full name."""
    modules = [import_module(f"{v1.__name__}.{module.name}") for module in iter_modules(v1.__path__)]
    files = [module.DESCRIPTOR for module in modules if hasattr(module, "DESCRIPTOR")]
    return {service.full_name: service for file in files for service in file.services_by_name.values()}


def test_every_method_of_every_service_has_the_scope_that_is_written_here() -> None:
    found = {
        name.removeprefix("finestream.v1."): (SCOPE_OF.get(name), {method.name for method in service.methods})
        for name, service in services().items()
    }
    assert found == EXPECTED


def handler(method: Any) -> Any:
    async def one(_request: Any, _context: Any) -> bytes:
        return OK

    async def many(requests: AsyncIterator[Any], _context: Any) -> bytes:
        return bytes([8, len([request async for request in requests])])

    def parse(data: bytes) -> bytes:
        assert data != NO_MESSAGE, "what is refused must not be parsed"
        return data

    if method.client_streaming:
        return grpc.stream_unary_rpc_method_handler(many, parse)
    return grpc.unary_unary_rpc_method_handler(one, parse, bytes)


def register(server: Any) -> None:
    for name, service in services().items():
        handlers = {method.name: handler(method) for method in service.methods}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])


def register_ranking(server: Any) -> None:
    name = "finestream.v1.RankingService"
    server.add_registered_method_handlers(name, {m.name: handler(m) for m in services()[name].methods})


class Tokens:
    """A file of tokens; a token's secret is its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, str] = {}
        self._write("[]")

    def put(self, name: str, scopes: str, limits: str = "") -> None:
        self._entries[name] = f"- {{name: {name}, sha256: '{digest(name.encode()).hex()}', scopes: [{scopes}]{limits}}}"
        self._write("\n".join(self._entries.values()))

    def drop(self, name: str) -> None:
        del self._entries[name]
        self._write("\n".join(self._entries.values()) or "[]")

    def spoil(self) -> None:
        self._write("[{name: ")

    def _write(self, text: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens.yaml")


class Caller:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def call(self, token: str | None, method: str, message: bytes = b"") -> tuple[str, str]:
        """The status and its sentence."""
        sent = () if token is None else (("authorization", f"Bearer {token}"),)
        try:
            if method == STREAM:
                await self.channel.stream_unary(method)(iter([message]), metadata=sent, timeout=10)
            else:
                await self.channel.unary_unary(method)(message, metadata=sent, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        return "OK", ""

    async def becomes(self, expected: str, token: str, method: str = RANK) -> None:
        async with asyncio.timeout(10):
            while (await self.call(token, method))[0] != expected:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(tokens: Tokens, door: bool = False) -> AsyncIterator[Caller]:
    """All services at a port of ours, or ranking's alone at a door."""
    options = GrpcSettings(token=SecretStr(OWN), tokens_file=tokens.path, tokens_poll_seconds=0.01)
    settings = ServiceSettings(grpc=options)
    server: Any
    if door:
        begin = with_settings(options)
        server = await open_door(settings, "example", register_ranking, Health(), PLACES, print, begin=begin)
    else:
        server = await rpc.serve(settings, "example", register, list(services()), Health())
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Caller(channel)
    finally:
        await server.stop(0)


def refused(reason: str, token: str) -> float:
    return REGISTRY.get_sample_value("finestream_rpc_refused_total", {"reason": reason, "token": token}) or 0.0


def failures() -> float:
    return REGISTRY.get_sample_value("finestream_tokens_failures_total") or 0.0


async def test_at_a_door_a_scope_counts_and_what_is_not_granted_is_not_parsed(tokens: Tokens) -> None:
    tokens.put("a-rank", "rank")
    tokens.put("an-admin", "admin")
    async with serving(tokens, door=True) as caller:
        assert [await caller.call(token, RANK) for token in ("a-rank", OWN)] == [("OK", "")] * 2
        assert (await caller.call("an-admin", RANK, NO_MESSAGE))[0] == "PERMISSION_DENIED"
        assert (await caller.call(None, RANK, NO_MESSAGE))[0] == "UNAUTHENTICATED"
        tokens.drop("a-rank")
        await caller.becomes("UNAUTHENTICATED", "a-rank")


async def test_each_token_may_call_what_its_scopes_name_and_nothing_else(tokens: Tokens) -> None:
    held = {"a-rank": {"rank"}, "an-events": {"events"}, "an-admin": {"admin"}, "two": {"rank", "events"}}
    for name, scopes in held.items():
        tokens.put(name, ", ".join(scopes))
    before = {name: refused("permission", name) for name in held}
    async with serving(tokens) as caller:
        for service, (scope, methods) in EXPECTED.items():
            for method in (f"/finestream.v1.{service}/{name}" for name in sorted(methods)):
                assert (await caller.call(OWN, method))[0] == "OK"
                for name, scopes in held.items():
                    expected = ("OK", "") if scope in scopes else (
                        "PERMISSION_DENIED", f"the token '{name}' lacks the scope '{scope}'; use one that has it"
                    )  # fmt: skip
                    message = b"" if scope in scopes else NO_MESSAGE
                    assert await caller.call(name, method, message) == expected
                for stranger in (None, "", "wrong", OWN + " ", digest(b"two").hex()):
                    status, sentence = await caller.call(stranger, method, NO_MESSAGE)
                    assert (status, "valid token" in sentence) == ("UNAUTHENTICATED", True)
    methods_without = {"a-rank": 8, "an-events": 9, "an-admin": 5, "two": 6}
    assert {name: refused("permission", name) - before[name] for name in held} == methods_without


@AT_EITHER
async def test_health_is_open_and_reflection_is_for_every_valid_token(door: bool, tokens: Tokens) -> None:
    tokens.put("any", "events")
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    async with serving(tokens, door) as caller:
        await health_pb2_grpc.HealthStub(caller.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        reflection = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
        # A refusal that comes before the client has sent its message is another error there, now and then.
        for token, expected in (("any", "OK"), (OWN, "OK"), *[("wrong", "UNAUTHENTICATED")] * 20):
            stream = reflection.ServerReflectionInfo(iter([ask]), metadata=[("authorization", f"Bearer {token}")])
            try:
                listed = [answer async for answer in stream]
                assert (expected, len(listed)) == ("OK", 1)
            except grpc.aio.AioRpcError as error:
                assert error.code().name == expected


@AT_EITHER
async def test_over_its_rate_a_token_is_refused_told_how_long_and_let_in_again_and_others_are_not_concerned(
    door: bool, tokens: Tokens
) -> None:
    tokens.put("slow", "rank", ", requests_per_second: 2, burst: 3")
    tokens.put("free", "rank")
    before = refused("rate", "slow")
    async with serving(tokens, door) as caller:
        assert [(await caller.call("slow", RANK))[0] for _ in range(3)] == ["OK"] * 3
        status, sentence = await caller.call("slow", RANK, NO_MESSAGE)
        assert (status, refused("rate", "slow")) == ("RESOURCE_EXHAUSTED", before + 1)
        assert 0 < float(sentence.rpartition("again in ")[2].removesuffix(" s")) <= 0.5
        assert [(await caller.call(token, RANK))[0] for token in ("free", OWN) for _ in range(20)] == ["OK"] * 40
        await health_pb2_grpc.HealthStub(caller.channel).Check(
            health_pb2.HealthCheckRequest(), timeout=5, metadata=[("authorization", "Bearer slow")]
        )
        await caller.becomes("OK", "slow")


@AT_EITHER
async def test_a_message_over_the_tokens_size_is_refused_before_it_is_parsed(door: bool, tokens: Tokens) -> None:
    tokens.put("small", "rank, events", f", max_bytes: {len(NO_MESSAGE) - 1}")
    before = refused("size", "small")
    async with serving(tokens, door) as caller:
        methods = (RANK,) if door else (RANK, PUBLISH, STREAM)
        for method in methods:
            assert (await caller.call("small", method, NO_MESSAGE[1:]))[0] == "OK"
            status, sentence = await caller.call("small", method, NO_MESSAGE)
            assert (status, f"'small' may send {len(NO_MESSAGE) - 1};" in sentence) == ("INVALID_ARGUMENT", True)
    assert refused("size", "small") == before + len(methods)


async def test_the_messages_of_a_stream_wait_for_the_tokens_rate_and_all_arrive(tokens: Tokens) -> None:
    tokens.put("paced", "events", ", requests_per_second: 50, burst: 1")
    async with serving(tokens) as caller:
        loop = asyncio.get_running_loop()
        began = loop.time()
        stream = caller.channel.stream_unary(STREAM)
        answer = await stream(iter([b""] * 6), metadata=[("authorization", "Bearer paced")], timeout=10)
        assert (answer, loop.time() - began >= 6 / 50) == (b"\x08\x06", True)  # the opening took the burst


async def test_a_token_put_into_the_file_counts_and_one_taken_out_stops_also_within_a_stream(tokens: Tokens) -> None:
    async with serving(tokens) as caller:
        assert (await caller.call("new", RANK))[0] == "UNAUTHENTICATED"
        tokens.put("new", "rank, events")
        await caller.becomes("OK", "new")
        tokens.put("new", "events")
        await caller.becomes("PERMISSION_DENIED", "new")
        call = caller.channel.stream_unary(STREAM)(metadata=[("authorization", "Bearer new")], timeout=10)
        await call.write(b"")
        tokens.drop("new")
        await caller.becomes("UNAUTHENTICATED", "new")
        await call.write(b"")
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "revoked" in await call.details()


@AT_EITHER
async def test_a_broken_file_keeps_the_tokens_before_it_and_is_counted(door: bool, tokens: Tokens) -> None:
    tokens.put("kept", "rank")
    before = failures()
    async with serving(tokens, door) as caller:
        tokens.spoil()
        async with asyncio.timeout(10):
            while failures() == before:
                await asyncio.sleep(0.01)
        assert (await caller.call("kept", RANK))[0] == "OK"
        tokens.drop("kept")
        await caller.becomes("UNAUTHENTICATED", "kept")
    assert failures() == before + 1


@AT_EITHER
async def test_a_reload_gives_no_new_burst_to_an_entry_that_stays(door: bool, tokens: Tokens) -> None:
    tokens.put("slow", "rank", ", requests_per_second: 0.001, burst: 2")
    async with serving(tokens, door) as caller:
        assert [(await caller.call("slow", RANK))[0] for _ in range(3)] == ["OK", "OK", "RESOURCE_EXHAUSTED"]
        tokens.put("other", "rank")
        await caller.becomes("OK", "other")
        assert (await caller.call("slow", RANK))[0] == "RESOURCE_EXHAUSTED"
