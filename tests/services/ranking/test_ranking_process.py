"""ranking as its own process over a broker and a graph double: warm-up, swap, withdrawal, and every refusal."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.ranking import experiments
from shared import bundle, events, rpc, topics
from shared.kafka import Producer
from shared.pb.finestream.v1 import ranking_pb2, ranking_pb2_grpc
from shared.pb.finestream.v1.position_pb2 import Position
from shared.pb.finestream.v1.ranking_pb2 import (
    RankBatchRequest,
    RankingServiceSimilarItemsRequest,
    RankRequest,
)
from shared.settings import GrpcSettings, KafkaSettings
from tests.parts import read_topic, until
from tests.running import Running
from tests.services.ranking.conftest import state_of
from tests.services.ranking.doubles import GraphDouble, item_of, user_of
from tests.services.ranking.test_swapper import Publisher

pytestmark = pytest.mark.e2e
SERVICE = "finestream.v1.RankingService"


class Client:
    """The process and stubs to it."""

    def __init__(self, process: Running, channel: grpc.aio.Channel) -> None:
        self.process = process
        self.stub = ranking_pb2_grpc.RankingServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.reflection = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def rank(self, user_id: str = "stranger", **fields: Any) -> ranking_pb2.RankResponse:
        answer: ranking_pb2.RankResponse = await self.stub.Rank(RankRequest(user_id=user_id, **fields), timeout=10)
        return answer

    async def ids(self, user_id: str = "stranger", **fields: Any) -> list[str]:
        return [item.item_id for item in (await self.rank(user_id, **fields)).items]

    async def serving(self) -> bool:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def metric(self, name: str, **labels: str) -> float:
        return await asyncio.to_thread(self.process.metric, name, **labels)


@asynccontextmanager
async def running(
    graph: GraphDouble, folder: Path, url: str, *, ready: bool = True, **environment: str
) -> AsyncIterator[Client]:
    process = Running(
        "ranking", folder, FINESTREAM_GRAPH_ADDRESS=f"127.0.0.1:{graph.port}", FINESTREAM_BUNDLES_URL=url,
        FINESTREAM_RANKING_BUNDLE_CACHE=str(folder / "cache"), FINESTREAM_RANKING_BUNDLE_POLL_SECONDS="0.1",
        **environment,
    )  # fmt: skip
    try:
        if ready:
            await asyncio.to_thread(process.ready)
        else:
            await until(lambda: bool(process.logged(r'"port": (\d+), "tls"')), 60, "the port is open")
        channel = rpc.channel(process.grpc_address, GrpcSettings())
        yield Client(process, channel)
        await channel.close(None)
        code = await asyncio.to_thread(process.stop)
        assert code == 0, process.log
    finally:
        if process.process.poll() is None:
            process.kill()


async def announce(producer: Producer, graph: GraphDouble, *nodes: Any, changed: bool = False) -> None:
    graph.put(*nodes)
    changes = [("item", time.time())] if changed else []
    await producer.send_all([(topics.ITEM_STATES, state_of(node, changes)) for node in nodes])


async def test_a_ranking_from_cold_start_to_swap_and_withdrawal(
    graph: GraphDouble, producer: Producer, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    publisher = Publisher(tmp_path)
    await announce(producer, graph, *(item_of(f"i{n}", users=n) for n in range(1, 6)))
    graph.put(user_of("u", ["i5"]))
    graph.silent = True
    async with running(graph, tmp_path, publisher.url, ready=False) as client:
        # not warm: no traffic
        assert not await client.serving()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.rank()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        graph.silent = False
        await until(client.serving, 30, "health says SERVING once warm")

        # no bundle: popular, and said so
        answer = await client.rank(k=2)
        assert [item.item_id for item in answer.items] == ["i5", "i4"]
        assert (answer.rung, answer.model_version) == (ranking_pb2.RUNG_POPULAR, "")
        assert answer.rung_reason

        like = RankingServiceSimilarItemsRequest(item_id="i5", k=2)
        await _refused(client.stub.SimilarItems(like, timeout=10), "FAILED_PRECONDITION", "no model")

        # hot swap
        first = publisher.publish()
        await until(lambda: _serves(client, first), 30, "the bundle is in service")
        known = await client.rank("u", k=2)
        assert [item.item_id for item in known.items] == ["i4", "i3"]
        assert known.rung == ranking_pb2.RUNG_FULL
        assert known.items[0].explanation.history.item_id == "i5"
        assert (await client.rank()).rung == ranking_pb2.RUNG_POPULAR

        # diverse, explored, in pages, and what is like an item
        asked = {"k": 2, "diversity": 0.5, "max_per_category": 5, "exploration": 1.0, "paged": True}
        explored = await client.rank("u", **asked)
        assert {item.item_id for item in explored.items} == {"i2", "i1"}
        assert {item.propensity for item in explored.items} == {0.5}
        assert explored.policy == "epsilon 1"
        rest = await client.ids("u", k=2, page_token=explored.next_page_token)
        assert rest == ["i4", "i3"]
        similar = await client.stub.SimilarItems(like, timeout=10)
        assert len(similar.items) == 2
        like.item_id = "nowhere"
        await _refused(client.stub.SimilarItems(like, timeout=10), "NOT_FOUND", "is not in the catalogue")

        # a damaged one is refused while the old one serves
        second = publisher.publish_damaged()
        await until(lambda: _counted(client, "finestream_ranking_bundle_failures_total", 1), 30, "it was refused")
        assert (await client.rank()).model_version == first != second

        # a withdrawn item goes, a new one comes
        await announce(producer, graph, item_of("i4", 2, available=False), item_of("new", users=9), changed=True)
        await until(lambda: _shows(client, ["new", "i5", "i3", "i2", "i1"]), 10, "the catalogue has changed")
        name = "finestream_event_to_visible_seconds_count"
        await until(lambda: _counted(client, name, 2, kind="item"), 10, "freshness was measured")
        described = item_of("new", 2, users=9, offset=3)
        asking = asyncio.create_task(client.rank(after=[Position(topic="items", key="new", offset=3)]))
        await announce(producer, graph, described)
        assert "new" in [item.item_id for item in (await asking).items]

        # graph_updater silent: the last known state
        graph.silent = True
        assert (await client.rank("u")).rung == ranking_pb2.RUNG_CACHED
        graph.silent = False

        # an erasure forgets it
        erasure = events.Erasure(user_id="u", erased_at=1.7e9)
        await producer.send(topics.ERASURES, erasure)
        await until(lambda: _counted(client, "finestream_ranking_cached_users", 0), 10, "the user is forgotten")

        # what was shown is written
        shown = {answer.request_id, known.request_id, explored.request_id}
        await until(lambda: _written(kafka_settings, shown), 10, "the impressions are in Kafka")


async def _serves(client: Client, version: str) -> bool:
    return (await client.rank()).model_version == version


async def _shows(client: Client, ids: list[str]) -> bool:
    return await client.ids() == ids


async def _counted(client: Client, name: str, value: float, **labels: str) -> bool:
    return await client.metric(name, **labels) == value


async def _written(settings: KafkaSettings, request_ids: set[str]) -> bool:
    records = await read_topic(settings, topics.IMPRESSIONS)
    impressions = [events.decode(topics.IMPRESSIONS, record.value) for record in records]
    return request_ids <= {i.request_id for i in impressions if isinstance(i, events.Impression)}


async def test_an_experiment_deals_users_to_two_bundles_until_it_is_switched_off(
    graph: GraphDouble, producer: Producer, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    publisher = Publisher(tmp_path)
    first, second = publisher.publish(), publisher.publish()
    bundle.rollback(publisher.url, first)
    file = tmp_path / "experiments.yaml"
    _written_to(file, f"{{name: larger-model, variants: [{{name: larger, share: 0.4, bundle: {second}}}]}}")
    users = [f"user {n}" for n in range(40)]
    await announce(producer, graph, *(item_of(f"i{n}", users=n) for n in range(1, 6)))
    graph.put(*(user_of(user, ["i5"]) for user in users))
    settings = {
        "FINESTREAM_RANKING_EXPERIMENTS": str(file), "FINESTREAM_RANKING_EXPERIMENTS_POLL_SECONDS": "0.1",
    }  # fmt: skip

    async def variants(client: Client) -> dict[str, str]:
        answers = await asyncio.gather(*(client.rank(user) for user in users))
        assert {(answer.variant, answer.model_version) for answer in answers} <= {("", first), ("larger", second)}
        return {user: answer.variant for user, answer in zip(users, answers, strict=True)}

    expected = {user: "larger" if experiments.read(file).variant_of(user) else "" for user in users}
    assert set(expected.values()) == {"", "larger"}
    async with running(graph, tmp_path, publisher.url, **settings) as client:
        # from the first request on, the same for each user again and again
        for _ in range(3):
            assert await variants(client) == expected
        counted = await client.metric("finestream_ranking_answers_total", rung="full", variant="larger")
        assert counted == 3 * list(expected.values()).count("larger")
        await until(lambda: _variants_written(kafka_settings, expected), 10, "the impressions say it")

        # a wrong file changes nothing
        _written_to(file, "{name: larger-model, variants: 7}")
        refused = "finestream_ranking_experiments_failures_total"
        await until(lambda: _counted(client, refused, 1), 10, "the file is refused")
        assert await variants(client) == expected

        # switched off: everybody is the control
        _written_to(file, f"{{name: larger-model, variants: [{{name: larger, share: 0, bundle: {second}}}]}}")

        async def nobody() -> bool:
            return set((await variants(client)).values()) == {""}

        await until(nobody, 10, "the experiment is over")

        # and on again
        _written_to(file, f"{{name: larger-model, variants: [{{name: larger, share: 0.4, bundle: {second}}}]}}")

        async def again() -> bool:
            return await variants(client) == expected

        await until(again, 10, "the experiment is on again")

    # a new process deals in the same way
    async with running(graph, tmp_path, publisher.url, **settings) as client:
        assert await variants(client) == expected


def _written_to(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


async def _variants_written(settings: KafkaSettings, expected: dict[str, str]) -> bool:
    records = await read_topic(settings, topics.IMPRESSIONS)
    impressions = [events.decode(topics.IMPRESSIONS, record.value) for record in records]
    found = {i.user_id: i.variant for i in impressions if isinstance(i, events.Impression)}
    return {user: found.get(user) for user in expected} == expected


async def test_a_bundle_that_memory_would_not_hold_is_refused_by_the_process(
    graph: GraphDouble, producer: Producer, tmp_path: Path
) -> None:
    publisher = Publisher(tmp_path)
    await announce(producer, graph, *(item_of(f"i{n}", users=n) for n in range(1, 6)))
    async with running(graph, tmp_path, publisher.url, FINESTREAM_RANKING_MEMORY_BYTES="1000000") as client:
        publisher.publish()
        name = "finestream_ranking_bundles_too_large_total"
        await until(lambda: _counted(client, name, 1), 30, "it was refused")
        assert (await client.rank()).model_version == ""


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("no user", {"user_id": ""}, "user_id is empty"),
    ("k of 0", {"user_id": "u", "k": 0}, "ask for 1 to 1000"),
    ("k of a billion", {"user_id": "u", "k": 10**9}, "ask for 1 to 1000"),
    ("too long an id", {"user_id": "u", "candidates": ["x" * 257]}, "at most 256"),
    ("another user's event", {"user_id": "u", "after": [Position(topic="reviews", key="v")]}, "another user"),
    ("a topic nobody waits for", {"user_id": "u", "after": [Position(topic="nope")]}, "can be waited for"),
]


async def test_refusals_have_a_status_and_a_sentence_and_the_edge_is_complete(
    graph: GraphDouble, producer: Producer, tmp_path: Path
) -> None:
    await announce(producer, graph, *(item_of(f"i{n}", users=n) for n in range(1, 6)))
    async with running(graph, tmp_path, str(tmp_path / "bundles")) as client:
        for _, fields, words in BAD:
            await _refused(client.stub.Rank(RankRequest(**fields), timeout=10), "INVALID_ARGUMENT", words)
            batch = RankBatchRequest(requests=[RankRequest(user_id="u"), RankRequest(**fields)])
            await _refused(client.stub.RankBatch(batch, timeout=10), "INVALID_ARGUMENT", r"requests[1]: ")
        many = RankBatchRequest(requests=[RankRequest(user_id="u")] * 257)
        await _refused(client.stub.RankBatch(many, timeout=10), "INVALID_ARGUMENT", "at most 256")

        unreflected = RankRequest(user_id="u", after=[Position(topic="items", key="i1", offset=10**9)])
        await _refused(client.stub.Rank(unreflected), "DEADLINE_EXCEEDED", "not reflected yet")
        await _refused(client.stub.Rank(RankRequest(user_id="u"), timeout=1e-6), "DEADLINE_EXCEEDED", "")

        requests = [RankRequest(user_id=f"u{n}", k=1 + n % 3) for n in range(256)]
        answers = await client.stub.RankBatch(RankBatchRequest(requests=requests), timeout=30)
        assert [len(answer.items) for answer in answers.responses] == [1 + n % 3 for n in range(256)]
        assert (await client.stub.RankBatch(RankBatchRequest(), timeout=10)).responses == []

        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        async for listed in client.reflection.ServerReflectionInfo(iter([ask])):
            assert SERVICE in [service.name for service in listed.list_services_response.service]


async def _refused(call: Any, code: str, words: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code().name == code
    assert words in (caught.value.details() or "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("K_LIMIT", "0"),
        ("BATCH_SIZE", "many"),
        ("DEVICE", "abacus"),
        ("QUEUE_LIMIT", "0"),
        ("PORT", "70000"),
        ("RULES", "/none"),
        ("EXPERIMENTS", "/none"),
        ("MEMORY_BYTES", "-1"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"FINESTREAM_RANKING_{name}", value)
    ended = subprocess.run(
        [sys.executable, "-m", "services.ranking.main"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert f"FINESTREAM_RANKING_{name}" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
