"""The gateway as its own process over a broker: what a producer is told is what Kafka holds."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from shared import events, rpc, topics
from shared.local.broker import Broker
from shared.pb.finestream.v1 import event_pb2, event_pb2_grpc
from shared.settings import GrpcSettings, KafkaSettings
from tests.parts import free_port, read_topic
from tests.running import Running

pytestmark = pytest.mark.e2e

TOKEN = "secret-token"
INTERACTION = {"event_id": "e", "user_id": "u", "item_id": "i", "ts": 1e9}
REVIEW = {"review_id": "r", "user_id": "u", "item_id": "i", "ts": 1e9, "text": "The battery dies fast."}


@pytest.fixture
def gateway(kafka_environment: KafkaSettings, tmp_path: Path) -> Iterator[Running]:
    running = Running("gateway", tmp_path, FINESTREAM_GRPC_TOKEN=TOKEN).ready()
    yield running
    assert running.stop() == 0, running.log


@pytest.fixture
async def stub(gateway: Running) -> AsyncIterator[Any]:
    async with rpc.channel(gateway.grpc_address, GrpcSettings(token=SecretStr(TOKEN))) as channel:
        yield event_pb2_grpc.EventServiceStub(channel)


async def test_every_kind_of_event_lies_where_the_answer_says(stub: Any, kafka_environment: KafkaSettings) -> None:
    sent: dict[str, tuple[Any, events.Event]] = {
        topics.INTERACTIONS: ({"interaction": INTERACTION}, events.Interaction(**INTERACTION)),
        topics.REVIEWS: ({"review": REVIEW}, events.Review(**REVIEW)),
        topics.ITEMS: ({"item": {"item_id": "i", "ts": 1e9}}, events.Item(item_id="i", ts=1e9)),
    }
    for topic, (fields, event) in sent.items():
        position = (await stub.Publish(event_pb2.PublishRequest(**fields), timeout=15)).position
        (record,) = await read_topic(kafka_environment, topic)
        assert (position.topic, position.partition, position.offset) == (topic, record.partition, record.offset)
        assert position.key.encode() == record.key == events.key_of(event)
        assert events.decode(topic, record.value) == event


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "event is not set; set interaction, review or item"),
        ({"interaction": {**INTERACTION, "user_id": ""}}, "user_id is required"),
        ({"interaction": {**INTERACTION, "ts": time.time() * 1000}}, "ts lies more than 5 minutes in the future"),
        ({"review": {**REVIEW, "text": ""}}, "text is empty"),
        ({"review": {**REVIEW, "text": "x" * 40 * 1024}}, "text has 40960 bytes; at most 32768 are taken"),
        ({"review": {**REVIEW, "text": "x" * 1024 * 1024}}, "send at most"),
    ],
)
async def test_bad_events_are_invalid_arguments(stub: Any, fields: Any, words: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Publish(event_pb2.PublishRequest(**fields), timeout=15)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()


async def test_a_message_beyond_the_ports_limit_is_refused(stub: Any) -> None:
    fields = {**REVIEW, "text": "x" * 9 * 1024 * 1024}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Publish(event_pb2.PublishRequest(review=fields), timeout=15)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_without_the_token_nothing_is_taken(gateway: Running, token: str) -> None:
    async with rpc.channel(gateway.grpc_address, GrpcSettings(token=SecretStr(token))) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await event_pb2_grpc.EventServiceStub(channel).Publish(
                event_pb2.PublishRequest(interaction=INTERACTION), timeout=15
            )
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_is_in_kafka_when_it_is_answered(
    stub: Any, kafka_environment: KafkaSettings, gateway: Running
) -> None:
    answer = await stub.PublishStream(_clicks(3000), timeout=60)
    records = await read_topic(kafka_environment, topics.INTERACTIONS)
    assert answer.published == len(records) == 3000
    assert len({record.value for record in records}) == 3000
    newest = {record.partition: record.offset for record in records}
    assert {position.partition: position.offset for position in answer.last} == newest
    assert gateway.metric("finestream_gateway_published_total", topic="interactions") == 3000


async def test_an_invalid_event_ends_its_stream_and_those_before_it_are_in_kafka(
    stub: Any, kafka_environment: KafkaSettings
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.PublishStream(_clicks(50, bad_at=7), timeout=30)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "event 7: item_id is required" in caught.value.details()
    assert len(await read_topic(kafka_environment, topics.INTERACTIONS)) == 7


@pytest.mark.slow  # as long as the producer waits for an acknowledgement
async def test_without_a_broker_an_event_is_not_acknowledged(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker", free_port())
    await broker.start()
    running = Running("gateway", tmp_path, FINESTREAM_KAFKA_BOOTSTRAP=broker.bootstrap)
    try:
        await asyncio.to_thread(running.ready)
        broker.stop()
        async with rpc.channel(running.grpc_address, GrpcSettings()) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await event_pb2_grpc.EventServiceStub(channel).Publish(
                    event_pb2.PublishRequest(interaction=INTERACTION), timeout=60
                )
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert caught.value.details().startswith("Kafka did not")
    finally:
        running.kill()
        broker.stop()


def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    running = Running("gateway", tmp_path, FINESTREAM_GATEWAY_MAX_IN_FLIGHT="none")
    assert running.process.wait(30) == 2
    (line,) = running.log.splitlines()
    assert "FINESTREAM_GATEWAY_MAX_IN_FLIGHT" in line


async def _clicks(count: int, bad_at: int = -1) -> AsyncIterator[event_pb2.PublishStreamRequest]:
    for n in range(count):
        item = "" if n == bad_at else "i"
        click = event_pb2.Interaction(event_id=str(n), user_id=f"u{n % 97}", item_id=item, ts=1e9)
        yield event_pb2.PublishStreamRequest(interaction=click)
