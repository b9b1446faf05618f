"""The extractor as its own process over a broker: every review and every item is answered, bad ones are set aside."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from shared import events, rpc, topics
from shared.events import Item, ItemSemantics, Opinions, Review
from shared.kafka import Producer
from shared.pb.finestream.v1 import extractor_pb2, extractor_pb2_grpc
from shared.settings import GrpcSettings, KafkaSettings
from tests.parts import Raw, produce, read_topic, until
from tests.running import Running

pytestmark = pytest.mark.e2e

TEXT = "The battery dies fast but the screen is gorgeous."


@pytest.fixture
def extractor(kafka_environment: KafkaSettings, tmp_path: Path) -> Iterator[Running]:
    running = Running("extractor", tmp_path).ready()
    yield running
    assert running.stop() == 0, running.log


async def test_reviews_become_opinions_items_semantics_poison_a_dead_letter_and_extract_answers(  # one start: seconds
    extractor: Running, kafka_settings: KafkaSettings, producer: Producer
) -> None:
    poison = json.dumps({"review_id": "p", "user_id": "u", "item_id": "i", "ts": 1e9}).encode()
    await produce(kafka_settings, topics.REVIEWS, [Raw(b"u0", poison)])
    reviews = [
        Review(review_id=f"r{n}", user_id=f"u{n % 7}", item_id="i", ts=1e9, text=f"{TEXT} Take {n}.") for n in range(70)
    ]
    sources = await producer.send_all([(topics.REVIEWS, review) for review in reviews])
    item_source = await producer.send(topics.ITEMS, Item(item_id="i", ts=1e9, title="A phone"))

    async def all_answered() -> bool:
        return (
            len(await read_topic(kafka_settings, topics.OPINIONS)) >= len(reviews)
            and len(await read_topic(kafka_settings, topics.ITEM_SEMANTICS)) >= 1
            and len(await read_topic(kafka_settings, topics.dead_letters(topics.REVIEWS))) >= 1
        )

    await until(all_answered, 60, "70 opinions, 1 item-semantics, 1 dead letter")
    opinions = [
        events.decode(topics.OPINIONS, record.value) for record in await read_topic(kafka_settings, topics.OPINIONS)
    ]
    of_review = {event.review_id: event for event in opinions if isinstance(event, Opinions)}
    for review, source in zip(reviews, sources, strict=True):
        found = of_review[review.review_id]
        assert (found.source.partition, found.source.offset) == (source.partition, source.offset)
        assert abs(found.source.appended_at - time.time()) < 600
        assert [review.text[p.start : p.end] for p in found.pairs] == ["battery dies fast", "screen is gorgeous"]
    [record] = await read_topic(kafka_settings, topics.ITEM_SEMANTICS)
    semantics = events.decode(topics.ITEM_SEMANTICS, record.value)
    assert isinstance(semantics, ItemSemantics)
    assert (semantics.source.offset, len(semantics.vector)) == (item_source.offset, 384)
    assert extractor.metric("finestream_extractor_reviews_total", outcome="pairs") >= len(reviews)
    await extract_is_answered_over_grpc(extractor)


async def extract_is_answered_over_grpc(extractor: Running) -> None:
    async with rpc.channel(extractor.grpc_address, GrpcSettings()) as channel:
        stub = extractor_pb2_grpc.ExtractorServiceStub(channel)
        answer = await stub.Extract(extractor_pb2.ExtractRequest(text=TEXT), timeout=30)
        assert [pair.quote for pair in answer.pairs] == ["battery dies fast", "screen is gorgeous"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Extract(extractor_pb2.ExtractRequest(text="x" * 40_000), timeout=30)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 32768 are taken" in caught.value.details()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("FINESTREAM_EXTRACTOR_PROVIDER", "magic"),
        ("FINESTREAM_SPACE_NAME", "no-such-space"),
        ("FINESTREAM_EMBEDDING_PATH", "/nowhere"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path: Path, setting: str, value: str) -> None:
    running = Running("extractor", tmp_path, **{setting: value})
    assert running.process.wait(60) == 2
    [line] = [line for line in running.log.splitlines() if not line.startswith("{")]  # logs are JSON
    assert setting in line
