"""Items of ranked.py described anew, through Kafka: python -m tests.bench.changing BOOTSTRAP ITEMS_A_SECOND, until it
is ended. A process of its own, so that it delays no load that is timed. Prints a line when it has begun.
"""

import asyncio
import sys
import time
from itertools import count

import uvloop

from shared import topics
from shared.events import Item
from shared.kafka import Producer
from tests.bench.filled import kafka
from tests.bench.ranked import ITEMS, item_name

STEP_SECONDS = 0.02


async def change(bootstrap: str, rate: float) -> None:
    producer, numbers = Producer(kafka(bootstrap)), count()
    await producer.start()
    print("changing", flush=True)
    began, sent = time.perf_counter(), 0
    while True:
        due = int((time.perf_counter() - began) * rate) - sent
        await producer.send_all([(topics.ITEMS, _described(next(numbers))) for _ in range(due)])
        sent += due
        await asyncio.sleep(STEP_SECONDS)


def _described(number: int) -> Item:
    at = number % ITEMS
    return Item(item_id=item_name(at), ts=time.time(), title=f"Item {at}, edition {number}", categories=[f"c{at % 20}"])


if __name__ == "__main__":
    try:
        uvloop.run(change(sys.argv[1], float(sys.argv[2])))
    except KeyboardInterrupt:
        sys.exit(130)  # told by the one who started us
