"""Events, and an embedded broker that holds them."""

import asyncio
import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from shared import events, space, topics
from shared.events import Event, Interaction, Opinions, Pair, Source
from shared.kafka import ensure_topics
from shared.local.broker import Broker
from shared.settings import KafkaSettings
from tests.parts import Raw, free_port, produce

PARTITIONS: Final = 4
USERS, ITEMS = 5_000, 1_000


def clicks(count: int) -> Iterator[Raw]:
    """Interactions of users and items in turn, on partitions in turn."""
    for n in range(count):
        event = Interaction(event_id=f"e{n}", user_id=f"u{n % USERS}", item_id=f"i{n % ITEMS}", ts=1.6e9 + n)
        yield Raw(events.key_of(event), events.encode(event), n % PARTITIONS)


def mixed(count: int, seed: int = 3) -> dict[str, list[Raw]]:
    """By topic, nine clicks to a review with two pairs, over users and items of whom some are popular."""
    chance, noise, definition = random.Random(seed), np.random.default_rng(seed), space.load()
    made: dict[str, list[Raw]] = {topics.INTERACTIONS: [], topics.OPINIONS: []}

    def vector(size: int) -> bytes:
        return noise.integers(-127, 127, size, dtype=np.int8).tobytes()

    for n in range(count):
        number = int(USERS * chance.random() ** 2)
        user, item, ts = f"u{number}", f"i{int(ITEMS * chance.random() ** 2)}", 1.6e9 + n
        event: Event = Interaction(event_id=f"e{n}", user_id=user, item_id=item, ts=ts)
        if n % 10 == 0:
            pairs = [
                Pair(name, "good enough", vector(definition.opinion_dim), 1, 0, 40, "a quote of some forty characters")
                for name in definition.attribute_names[:2]
            ]
            event = Opinions(
                review_id=f"r{n}", user_id=user, item_id=item, ts=ts, extractor="bench", extractor_version=1,
                content_hash="0" * 32, space=definition.name, pairs=pairs, vector=vector(definition.embedding_dim),
                source=Source(topics.REVIEWS, number % PARTITIONS, n, ts),
            )  # fmt: skip
        topic = topics.INTERACTIONS if isinstance(event, Interaction) else topics.OPINIONS
        made[topic].append(Raw(events.key_of(event), events.encode(event), number % PARTITIONS))
    return made


@contextmanager
def broker(filling: Mapping[str, Iterable[Raw]]) -> Iterator[str]:
    """host:port of a broker that holds these records, by topic; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="finestream-bench-") as folder:
        started = Broker(Path(folder), free_port())
        try:
            asyncio.run(_fill(started, filling))
            yield started.bootstrap
        finally:
            started.stop()


def kafka(bootstrap: str) -> KafkaSettings:
    return KafkaSettings(bootstrap=bootstrap, partitions=PARTITIONS)


async def _fill(started: Broker, filling: Mapping[str, Iterable[Raw]]) -> None:
    await started.start()
    settings = kafka(started.bootstrap)
    await ensure_topics(settings)
    for topic, held in filling.items():
        await produce(settings, topic, held)
