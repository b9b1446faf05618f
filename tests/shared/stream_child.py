"""A process that consumes `interactions` and appends each effect to a file, for tests that kill it.

    python -m tests.shared.stream_child EFFECTS SEED

An effect is one line "partition offset event_id", on disk before the handler returns. One call in twenty fails first.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from shared import topics
from shared.errors import Unavailable
from shared.events import Interaction
from shared.kafka import Producer
from shared.service import Health
from shared.settings import KafkaSettings
from shared.streams import Delivery, Refused, Stream


async def consume(effects: Path, chance: random.Random) -> None:
    kafka = KafkaSettings()
    file = os.open(effects, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    async def handle(deliveries: Sequence[Delivery]) -> Sequence[Refused]:
        await asyncio.sleep(chance.uniform(0.0, 0.02))  # the time in which a kill finds a batch without its effect
        if chance.random() < 0.05:
            raise Unavailable("the store does not answer")
        os.write(file, "".join(map(line, deliveries)).encode())
        os.fsync(file)
        return []

    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    producer = Producer(kafka)
    await producer.start()
    stream = Stream(
        "victim", [topics.INTERACTIONS], handle, kafka=kafka, producer=producer, health=Health(), batch_size=25
    )
    await stream.start()
    await stopping.wait()
    await stream.stop()
    await producer.stop()


def line(delivery: Delivery) -> str:
    assert isinstance(delivery.event, Interaction)
    return f"{delivery.source.partition} {delivery.source.offset} {delivery.event.event_id}\n"


if __name__ == "__main__":
    uvloop.run(consume(Path(sys.argv[1]), random.Random(int(sys.argv[2]))))
