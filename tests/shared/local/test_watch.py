"""What the watch sees of a broker: ends, how far groups are behind, and the dead letters, foreign records left out."""

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared import dead_letters, topics
from shared.dead_letters import Letter, Record
from shared.events import Source
from shared.kafka import Producer, client_options, group_of, name_of
from shared.local.watch import watching
from shared.settings import KafkaSettings
from tests.parts import Raw, produce


async def commit(kafka: KafkaSettings, group: str, topic: str, partition: int, offset: int) -> None:
    consumer = AIOKafkaConsumer(
        **client_options(kafka), group_id=group_of(kafka, group), enable_auto_commit=False
    )  # fmt: skip
    await consumer.start()
    place = TopicPartition(name_of(kafka, topic), partition)
    consumer.assign([place])
    await consumer.commit({place: offset})
    await consumer.stop()


async def test_ends_and_lags(kafka_settings: KafkaSettings) -> None:
    await produce(kafka_settings, topics.ITEMS, [Raw(b"k", b"v", 1) for _ in range(5)])
    await produce(kafka_settings, topics.ITEMS, [Raw(b"k", b"v", 2) for _ in range(3)])
    await commit(kafka_settings, "some", topics.ITEMS, 1, 4)
    await commit(kafka_settings, "all", topics.ITEMS, 1, 5)
    await commit(kafka_settings, "all", topics.ITEMS, 2, 3)
    async with watching(kafka_settings) as watch:
        assert await watch.ends([topics.ITEMS]) == {topics.ITEMS: {0: 0, 1: 5, 2: 3, 3: 0}}
        assert await watch.lags() == {"some": 4, "all": 0}


async def test_letters_are_read_and_foreign_records_are_left_out(
    kafka_settings: KafkaSettings, producer: Producer
) -> None:
    letter = Letter(Record(Source(topics.ITEMS, 1, 7, 5.0), b"k", b"v"), "g", "items", "not_json", "no JSON")
    await dead_letters.send(producer, letter)
    await produce(kafka_settings, topics.dead_letters(topics.ITEMS), [Raw(b"k", b"not a letter", 0)])
    async with watching(kafka_settings) as watch:
        assert [found async for found in watch.letters()] == [letter]
        assert [found async for found in watch.letters([topics.dead_letters(topics.REVIEWS)])] == []
