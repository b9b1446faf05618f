"""Bad input of every kind ends in a dead letter with its reason, or in the right status, and the stream goes on."""

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from pydantic import SecretStr

from shared import rpc, topics
from shared.events import Interaction, Item, Review
from shared.pb.finestream.v1 import event_pb2, event_pb2_grpc, graph_pb2, graph_pb2_grpc, ranking_pb2, ranking_pb2_grpc
from shared.settings import GrpcSettings
from tests.e2e.conftest import System, running
from tests.parts import Raw, produce, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
TOKEN = "the-right-token"
NOW = time.time()
CLICK = {"event_id": "e", "user_id": "bad", "item_id": "i", "ts": NOW}
REVIEW = {"review_id": "r", "user_id": "bad", "item_id": "i", "ts": NOW, "text": "fine"}

BAD_RECORDS: list[tuple[str, object, str]] = [
    (topics.INTERACTIONS, b"not json", "not_json"),
    (topics.INTERACTIONS, None, "missing_field"),
    (topics.INTERACTIONS, CLICK | {"user_id": 7}, "wrong_type"),
    (topics.INTERACTIONS, {k: v for k, v in CLICK.items() if k != "item_id"}, "missing_field"),
    (topics.INTERACTIONS, CLICK | {"ts": NOW * 1000}, "in_future"),
    (topics.INTERACTIONS, CLICK | {"ts": 1.0}, "too_old"),
    (topics.INTERACTIONS, CLICK | {"event_id": ""}, "out_of_bounds"),
    (topics.REVIEWS, REVIEW | {"text": ""}, "empty_text"),
    (topics.REVIEWS, REVIEW | {"text": "x" * 40_960}, "too_large"),
    (topics.REVIEWS, REVIEW | {"rating": 11}, "out_of_bounds"),
    (topics.ITEMS, {"item_id": "a\u0000b", "ts": NOW}, "bad_id"),
]


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """One system for the whole file, with a token on every port."""
    async with running(tmp_path_factory.mktemp("guarded"), FINESTREAM_GRPC_TOKEN=TOKEN) as started:
        yield started


def raw(value: object) -> Raw:
    return Raw(b"bad", value if isinstance(value, bytes) or value is None else json.dumps(value).encode())


@pytest.mark.asyncio(loop_scope="module")
async def test_every_bad_record_is_a_dead_letter_with_its_reason_and_the_stream_goes_on(guarded: System) -> None:
    expected = {}
    for topic, value, reason in BAD_RECORDS:
        [(partition, offset)] = await produce(guarded.kafka, topic, [raw(value)])
        expected[topic, partition, offset] = reason
    await guarded.send([Interaction(event_id="good", user_id="bad", item_id="i", ts=NOW)])
    await guarded.send([Review(review_id="good", user_id="bad", item_id="i", ts=NOW, text="A good neck.")])
    await guarded.send([Item(item_id="i", ts=NOW, title="A guitar")])

    async def letters() -> dict[tuple[str, int, int], str]:
        return {
            (letter.record.source.topic, letter.record.source.partition, letter.record.source.offset): letter.reason
            async for letter in guarded.watch.letters()
        }

    async def all_buried() -> bool:
        return (await letters()).keys() >= expected.keys()

    await until(all_buried, 30, "every bad record has a dead letter")
    assert await letters() == expected

    channel = rpc.channel(guarded.layout.env["FINESTREAM_GRAPH_ADDRESS"], GrpcSettings(token=SecretStr(TOKEN)))
    async with channel:
        graph = graph_pb2_grpc.GraphServiceStub(channel)

        async def reflected() -> bool:
            users = await graph.GetUsers(
                graph_pb2.GetUsersRequest(
                    users=[graph_pb2.UserQuery(user_id="bad")], format=graph_pb2.STATE_FORMAT_JSON
                )
            )
            return b'"good"' in users.users[0].state and b"neck" in users.users[0].state

        await until(reflected, 30, "the good click and the good review behind them are in the state")


RANKS = [
    ({"user_id": ""}, grpc.StatusCode.INVALID_ARGUMENT, "user_id"),
    ({"user_id": "u", "k": 0}, grpc.StatusCode.INVALID_ARGUMENT, "k"),
    ({"user_id": "u", "k": 10**9}, grpc.StatusCode.INVALID_ARGUMENT, "k"),
    ({"user_id": "u", "k": -1}, grpc.StatusCode.INVALID_ARGUMENT, "k"),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("request_", "code", "named"), RANKS)
async def test_a_wrong_rank_request_says_what_to_change(
    guarded: System, request_: dict[str, object], code: grpc.StatusCode, named: str
) -> None:
    settings = GrpcSettings(token=SecretStr(TOKEN))
    async with rpc.channel(guarded.layout.env["FINESTREAM_RANKING_ADDRESS"], settings) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ranking_pb2_grpc.RankingServiceStub(channel).Rank(ranking_pb2.RankRequest(**request_), timeout=5)
    assert caught.value.code() == code
    assert named in caught.value.details()


@pytest.mark.asyncio(loop_scope="module")
async def test_an_unknown_user_gets_popular_items_and_is_told_so(guarded: System) -> None:
    settings = GrpcSettings(token=SecretStr(TOKEN))
    async with rpc.channel(guarded.layout.env["FINESTREAM_RANKING_ADDRESS"], settings) as channel:
        answer = await ranking_pb2_grpc.RankingServiceStub(channel).Rank(
            ranking_pb2.RankRequest(user_id="nobody"), timeout=5
        )
    assert answer.rung == ranking_pb2.RUNG_POPULAR
    assert answer.rung_reason


@pytest.mark.asyncio(loop_scope="module")
async def test_an_event_that_cannot_be_reflected_in_time_is_deadline_exceeded(guarded: System) -> None:
    from shared.pb.finestream.v1.position_pb2 import Position

    settings = GrpcSettings(token=SecretStr(TOKEN))
    never = Position(topic=topics.INTERACTIONS, partition=0, offset=10**12)
    async with rpc.channel(guarded.layout.env["FINESTREAM_RANKING_ADDRESS"], settings) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ranking_pb2_grpc.RankingServiceStub(channel).Rank(
                ranking_pb2.RankRequest(user_id="bad", after=[never]), timeout=0.5
            )
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("token", ["", "a-wrong-one"])
async def test_no_port_serves_without_the_right_token(guarded: System, token: str) -> None:
    settings = GrpcSettings(token=SecretStr(token))
    env = guarded.layout.env
    click = event_pb2.Interaction(event_id="x", user_id="u", item_id="i", ts=NOW)
    async with (
        rpc.channel(env["FINESTREAM_GATEWAY_ADDRESS"], settings) as gateway,
        rpc.channel(env["FINESTREAM_GRAPH_ADDRESS"], settings) as graph,
        rpc.channel(env["FINESTREAM_RANKING_ADDRESS"], settings) as ranking,
    ):
        calls = [
            event_pb2_grpc.EventServiceStub(gateway).Publish(event_pb2.PublishRequest(interaction=click), timeout=5),
            graph_pb2_grpc.GraphServiceStub(graph).ForgetUser(graph_pb2.ForgetUserRequest(user_id="u"), timeout=5),
            ranking_pb2_grpc.RankingServiceStub(ranking).Rank(ranking_pb2.RankRequest(user_id="u"), timeout=5),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.asyncio(loop_scope="module")
async def test_a_foreign_client_ranks_by_reflection(guarded: System) -> None:
    buf = Path(sys.executable).with_name("buf")
    address = guarded.layout.env["FINESTREAM_RANKING_ADDRESS"]
    done = subprocess.run(
        [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-H", f"authorization: Bearer {TOKEN}", "--reflect-header", "*",
         "-d", '{"userId": "bad", "k": 3, "includeSeen": true}', f"http://{address}/finestream.v1.RankingService/Rank"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"]
