"""shared/rpc.py and shared/door: errors become status codes with a sentence; tokens, TLS and health hold at every port."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from shared import errors, rpc, rpc_edge
from shared.door.calls import open_door
from shared.pb.finestream.v1 import extractor_pb2, extractor_pb2_grpc
from shared.service import Health, WrongSetting
from shared.settings import GrpcSettings, ServiceSettings
from tests.parts import free_port
from tests.shared.door.doors import with_settings

PLACES = 8
NAME = "finestream.v1.ExtractorService"


class Raising(extractor_pb2_grpc.ExtractorServiceServicer):
    """A test double: raises the error that the text names."""

    async def Extract(self, request: Any, context: Any) -> Any:
        kind = getattr(errors, request.text, None) or {"ValueError": ValueError}.get(request.text)
        if kind:
            raise kind("a sentence")
        return extractor_pb2.ExtractResponse(extractor=request.text)


Way = Literal["in the service", "by its door"]


@pytest.fixture(params=get_args(Way))
def way(request: pytest.FixtureRequest) -> Way:
    """Of opening a gRPC port: what holds for one holds for the other."""
    given: Way = request.param
    return given


async def opened(way: Way, settings: ServiceSettings, health: Health) -> Any:
    def register(server: Any) -> None:
        extractor_pb2_grpc.add_ExtractorServiceServicer_to_server(Raising(), server)

    if way == "by its door":
        return await open_door(settings, "example", register, health, PLACES, print, begin=with_settings(settings.grpc))
    return await rpc.serve(settings, "example", register, [NAME], health)


@asynccontextmanager
async def serving(way: Way, **grpc_settings: Any) -> AsyncIterator[tuple[str, Health]]:
    health = Health()
    server = await opened(way, ServiceSettings(grpc=GrpcSettings(**grpc_settings)), health)
    try:
        yield f"127.0.0.1:{server.port}", health
    finally:
        await server.stop(1)


async def extract(address: str, text: str, **settings: Any) -> str:
    async with rpc.channel(address, GrpcSettings(**settings)) as channel:
        answer = await extractor_pb2_grpc.ExtractorServiceStub(channel).Extract(
            extractor_pb2.ExtractRequest(text=text), timeout=5
        )
        return answer.extractor


@pytest.mark.parametrize(("kind", "code"), [(k.__name__, c) for k, c in rpc_edge.STATUS_OF.items()])
async def test_every_error_of_ours_has_its_status_code_and_keeps_its_sentence(way: Way, kind: str, code: Any) -> None:
    async with serving(way) as (address, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await extract(address, kind)
    assert (caught.value.code(), caught.value.details()) == (code, "a sentence")


async def test_a_defect_is_internal_and_tells_nothing(way: Way) -> None:
    async with serving(way) as (address, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await extract(address, "ValueError")
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "a sentence" not in caught.value.details()


@pytest.mark.parametrize("method", [f"/{NAME}/Nothing", "/nobody/Extract", "nothing"])
async def test_what_nobody_serves_is_unimplemented_however_often_it_is_asked_for(way: Way, method: str) -> None:
    async with serving(way) as (address, _), grpc.aio.insecure_channel(address) as channel:
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(method)(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_that_cannot_be_parsed_is_the_callers_mistake(way: Way) -> None:
    async with serving(way) as (address, _), grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{NAME}/Extract")(b"no message at all", timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "cannot be parsed" in (caught.value.details() or "")


@pytest.mark.parametrize("token", ["", "wrong", "secret "])
async def test_without_the_right_token_nothing_is_served(way: Way, token: str) -> None:
    async with serving(way, token=SecretStr("secret")) as (address, _):
        assert await extract(address, "hello", token=SecretStr("secret")) == "hello"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await extract(address, "hello", token=SecretStr(token))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_health_needs_no_token_and_says_serving_only_when_ready(way: Way) -> None:
    async with (
        serving(way, token=SecretStr("secret")) as (address, health),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)

        async def status(name: str) -> int:
            return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status

        async def becomes(expected: int) -> None:
            async with asyncio.timeout(5):
                while {await status(""), await status(NAME)} != {expected}:
                    await asyncio.sleep(0.01)

        await becomes(health_pb2.HealthCheckResponse.NOT_SERVING)
        health.ready()
        await becomes(health_pb2.HealthCheckResponse.SERVING)
        health.not_ready("draining")
        await becomes(health_pb2.HealthCheckResponse.NOT_SERVING)


async def test_a_taken_port_is_a_wrong_setting(way: Way) -> None:
    async with serving(way) as (address, _):
        settings = ServiceSettings(port=int(address.rsplit(":", 1)[1]))
        with pytest.raises(WrongSetting, match="gRPC port"):
            await opened(way, settings, Health())


async def test_a_port_is_shared_where_both_say_so(way: Way) -> None:
    port = free_port()
    settings = ServiceSettings(port=port, shared_port=True)
    servers = [await opened(way, settings, Health()) for _ in range(2)]
    try:
        assert [server.port for server in servers] == [port, port]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    finally:
        for server in servers:
            await server.stop(0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A CA, and a server's and a client's certificate signed by it, made with openssl."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
            "-subj", "/CN=ca")  # fmt: skip
    for name in ("server", "client"):
        openssl(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={name}",
        )
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out",
                f"{name}.pem", "-days", "2", "-extfile", "san")  # fmt: skip
    return folder.joinpath


async def test_mtls_serves_those_with_a_certificate_and_nobody_else(
    way: Way, certificates: Callable[[str], Path]
) -> None:
    ca = certificates("ca.pem")
    server = {"tls_certificate": certificates("server.pem"), "tls_key": certificates("server.key"), "tls_ca": ca}
    client = {"tls_certificate": certificates("client.pem"), "tls_key": certificates("client.key"), "tls_ca": ca}
    async with serving(way, **server, mtls=True) as (address, _):
        assert await extract(address, "hello", **client, mtls=True) == "hello"
        for stranger in ({"tls_ca": ca}, {}):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await extract(address, "hello", **stranger)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
