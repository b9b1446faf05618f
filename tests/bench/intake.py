"""How many events a second one process receives, decodes and validates: our Stream against a stock Faust agent.

40,000 interactions lie in 4 partitions of an embedded broker; both read them from the start and drop them. Ours
decodes and validates each on its way, the baseline leaves them bytes. Every contender runs in a process of its own,
in turn with the others, twice; the best run counts, from the first delivered record on. The embedded broker answers a
fetch with all that a partition holds, so what the fetches before that take counts for nobody.
"""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Final

import uvloop

from shared import topics
from shared.kafka import Producer
from shared.service import Health
from shared.settings import KafkaSettings
from shared.streams import Delivery, Refused, Stream
from tests.bench.alone import RATE, Numbers, best
from tests.bench.figure import Figure, figure
from tests.bench.filled import broker, clicks, kafka
from tests.bench.stock_faust import stock
from tests.bench.stopwatch import Stopwatch

EVENTS: Final = 40_000
BATCH: Final = 1_000
GOAL: Final = 1.5
WHAT: Final = (
    "events/s of one process that receives interactions of 4 partitions: shared.streams.Stream, which decodes and "
    "validates them, against a stock Faust agent, which does neither; both drop them"
)


def figures() -> list[Figure]:
    with broker({topics.INTERACTIONS: clicks(EVENTS)}) as bootstrap:
        runs = best({
            "ours": (ours, bootstrap, EVENTS, True),
            "stock Faust agent": (stock, bootstrap, [topics.INTERACTIONS], EVENTS),
            "ours without whole fetches": (ours, bootstrap, EVENTS, False),
        })  # fmt: skip
    parts = {f"{name}, {unit}": value for name, run in runs.items() for unit, value in run.items() if unit != RATE}
    parts[f"ours without whole fetches, {RATE}"] = runs["ours without whole fetches"][RATE]
    return [figure("intake", WHAT, runs["ours"][RATE], runs["stock Faust agent"][RATE], RATE, goal=GOAL, parts=parts)]


def ours(bootstrap: str, count: int, whole_fetches: bool) -> Numbers:
    """A Stream with a handler that drops what it gets."""
    return uvloop.run(_receive(kafka(bootstrap).model_copy(update={"whole_fetches": whole_fetches}), count))


async def _receive(settings: KafkaSettings, count: int) -> Numbers:
    watch, done = Stopwatch(), asyncio.Event()

    async def drop(deliveries: Sequence[Delivery]) -> list[Refused]:
        watch.count(len(deliveries))
        if watch.seen >= count:
            done.set()
        return []

    producer = Producer(settings)
    await producer.start()
    stream = Stream(
        f"bench-{secrets.token_hex(4)}", [topics.INTERACTIONS], drop, kafka=settings, producer=producer,
        health=Health(), batch_size=BATCH,
    )  # fmt: skip
    await stream.start()
    await done.wait()
    numbers = watch.numbers()
    await stream.stop()
    await producer.stop()
    return numbers
