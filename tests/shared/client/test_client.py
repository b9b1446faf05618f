"""shared/client: what is repeated and what is not, within one deadline, over one connection."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from shared import errors, rpc, rpc_edge
from shared.client import Blocking, ClientSettings, connect
from shared.errors import FinestreamError
from shared.pb.finestream.v1 import ranking_pb2, ranking_pb2_grpc
from shared.service import Health
from shared.settings import GrpcSettings, ServiceSettings


class Scripted(ranking_pb2_grpc.RankingServiceServicer):
    """A test double of ranking: raises each of `script` once, then answers with the user's id."""

    def __init__(self, script: Sequence[FinestreamError] = ()) -> None:
        self.script = list(script)
        self.peers: list[str] = []

    async def Rank(self, request: Any, context: Any) -> Any:
        self.peers.append(context.peer())
        if self.script:
            raise self.script.pop(0)
        return ranking_pb2.RankResponse(request_id=request.user_id)


@asynccontextmanager
async def serving(double: Scripted, token: str = "") -> AsyncIterator[ClientSettings]:
    grpc_settings = GrpcSettings(token=SecretStr(token))

    def register(server: grpc.aio.Server) -> None:
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(double, server)

    server = await rpc.serve(ServiceSettings(grpc=grpc_settings), "double", register, [], Health())
    try:
        yield ClientSettings(ranking_address=f"127.0.0.1:{server.port}", grpc=grpc_settings)
    finally:
        await server.stop(0)


@pytest.mark.parametrize("error", [errors.Unavailable("away"), errors.Overloaded("full")])
async def test_what_a_later_try_may_not_meet_is_tried_again(error: FinestreamError) -> None:
    double = Scripted([error, error])
    async with serving(double) as settings, connect(settings) as client:
        assert (await client.rank("u")).request_id == "u"
    assert len(double.peers) == 3


@pytest.mark.parametrize("kind", [errors.InvalidRequest, errors.DeadlineExceeded, errors.Unauthenticated])
async def test_what_trying_again_cannot_mend_is_told_at_once(kind: type[FinestreamError]) -> None:
    double = Scripted([kind("a sentence")])
    async with serving(double) as settings, connect(settings) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.rank("u")
    assert (caught.value.code(), caught.value.details()) == (rpc_edge.STATUS_OF[kind], "a sentence")
    assert len(double.peers) == 1


async def test_tries_are_bounded() -> None:
    double = Scripted([errors.Overloaded("full")] * 100)
    async with serving(double) as settings, connect(settings) as client:
        for _ in range(20):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.rank("u")
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 20 < len(double.peers) <= 20 + 3 * 10  # where all fail, nothing is repeated any more


async def test_the_deadline_is_of_all_tries_together() -> None:
    async with serving(Scripted([errors.Unavailable("away")] * 100)) as settings, connect(settings) as client:
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError):
            await client.rank("u", timeout=0.05)
        assert time.monotonic() - began < 1.0


async def test_all_calls_go_over_one_connection_and_carry_the_token() -> None:
    double = Scripted()
    async with serving(double, token="secret") as settings, connect(settings) as client:
        await asyncio.gather(*(client.rank(f"u{n}") for n in range(20)))
        assert len(double.peers) == 20
        assert len(set(double.peers)) == 1
        wrong = settings.model_copy(update={"grpc": GrpcSettings(token=SecretStr("wrong"))})
        async with connect(wrong) as stranger:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stranger.rank("u")
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_without_an_event_loop_the_calls_are_the_same_from_any_thread() -> None:
    double = Scripted([errors.Unavailable("away")])
    async with serving(double) as settings:
        answers = await asyncio.to_thread(_from_threads, settings)
    assert answers == [f"u{n}" for n in range(8)]
    assert len(set(double.peers)) == 1


def _from_threads(settings: ClientSettings) -> list[str]:
    with Blocking(settings) as client, ThreadPoolExecutor(4) as threads:
        return [answer.request_id for answer in threads.map(client.rank, [f"u{n}" for n in range(8)])]
