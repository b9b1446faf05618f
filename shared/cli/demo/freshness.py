"""How soon Rank reflects an event, measured from outside while a paced load runs against the system.

A probe publishes through the gateway and calls Rank with `after`; its time runs from the record's append time in
the broker (read from the archive afterwards) to Rank's answer.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc

from shared.cli.demo.scrape import Histogram
from shared.client import Client
from shared.events import Interaction, Review
from shared.kafka import Producer
from shared.local import sentences, verify
from shared.local.ledger import Ledger, Sent, topic_of

LOAD_USERS: Final = 400
PROBE_USERS: Final = 20
TICK_SECONDS: Final = 0.05
INTERACTION_EVERY: Final = 0.1  # seconds between two probes of a kind, beside the probe itself
REVIEW_EVERY: Final = 0.25
DEADLINE_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Load:
    """Events a second, for how long, and how many of them are reviews.

    `prefix` stands in front of every id: of two loads in one run, what was read of one must not be known of the other.
    """

    rate: float = 200.0
    seconds: float = 25.0
    review_share: float = 0.03
    prefix: str = ""


@dataclass
class Probes:
    """`answers`, by kind: (topic, partition, offset) -> when Rank answered (seconds since 1970).

    `late`, by kind: missed deadlines.
    """

    load_sent: int = 0
    load_seconds: float = 0.0
    answers: dict[str, dict[tuple[str, int, int], float]] = field(
        default_factory=lambda: {"interaction": {}, "review": {}}
    )
    late: Counter[str] = field(default_factory=Counter)

    def delays(self, archive_url: str) -> dict[str, list[float]]:
        """kind -> seconds from append to answer, sorted. Call it once the probes' records are archived."""
        places = [place for found in self.answers.values() for place in found]
        appended = verify.appended_at(archive_url, set(places))
        return {
            kind: sorted(answered - appended[place] for place, answered in found.items())
            for kind, found in self.answers.items()
        }


async def measure(
    client: Client, producer: Producer, ledger: Ledger, items: Sequence[str], load: Load,
    on_second: Callable[[int], None],
) -> Probes:  # fmt: skip
    """Run the load and, beside it, probes of both kinds. All events go into the ledger."""
    probes = Probes()
    rng = random.Random(2)  # noqa: S311  # which item is clicked, not a secret
    async with asyncio.TaskGroup() as group:
        group.create_task(_load(producer, ledger, rng, items, load, probes, on_second))
        group.create_task(_probe(client, ledger, rng, items, "interaction", INTERACTION_EVERY, load, probes))
        group.create_task(_probe(client, ledger, rng, items, "review", REVIEW_EVERY, load, probes))
    return probes


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Nearest rank; None where nothing was measured."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def figures(ordered: Sequence[float]) -> dict[str, float | int | None]:
    p50, p95 = quantile(ordered, 0.5), quantile(ordered, 0.95)
    return {"p50": _rounded(p50), "p95": _rounded(p95), "probes": len(ordered)}


def histogram_figures(histogram: Histogram) -> dict[str, float | int | None]:
    p50, p95 = histogram.quantile(0.5), histogram.quantile(0.95)
    return {"p50": _rounded(p50), "p95": _rounded(p95), "events": int(histogram.total)}


async def _load(
    producer: Producer, ledger: Ledger, rng: random.Random, items: Sequence[str], load: Load, probes: Probes,
    on_second: Callable[[int], None],
) -> None:  # fmt: skip
    """Sends what is due at each tick, so that a slow tick is made up for and the rate holds."""
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < load.seconds:
        due = int(elapsed * load.rate) - probes.load_sent
        events = [_load_event(rng, probes.load_sent + n, items, load) for n in range(due)]
        places = await producer.send_all([(topic_of(event), event) for event in events])
        for event, place in zip(events, places, strict=True):
            ledger.add(event, place)
        probes.load_sent += due
        probes.load_seconds = time.monotonic() - started
        on_second(int(elapsed))
        await asyncio.sleep(TICK_SECONDS)


def _load_event(rng: random.Random, number: int, items: Sequence[str], load: Load) -> Sent:
    user_id, item_id = f"load-{rng.randrange(LOAD_USERS):04d}", rng.choice(items)
    if rng.random() < load.review_share:
        return _review(rng, f"{load.prefix}load-r{number}", user_id, item_id)
    return Interaction(event_id=f"{load.prefix}load-i{number}", user_id=user_id, item_id=item_id, ts=time.time())


def _review(rng: random.Random, review_id: str, user_id: str, item_id: str) -> Review:
    good, bad = sentences.OPINIONS[rng.choice(list(sentences.OPINIONS))]
    # The id in the text makes it new to the extractor's cache, as a real review is.
    text = f"{rng.choice(good + bad)} {rng.choice(sentences.CLOSINGS_MIXED)} ({review_id})".format(thing="product")
    return Review(review_id=review_id, user_id=user_id, item_id=item_id, ts=time.time(), text=text, rating=3.0)


async def _probe(
    client: Client, ledger: Ledger, rng: random.Random, items: Sequence[str], kind: str, every: float, load: Load,
    probes: Probes,
) -> None:  # fmt: skip
    until, number = time.monotonic() + load.seconds, 0
    while time.monotonic() < until:
        event = _probe_event(rng, kind, number, rng.choice(items), load.prefix)
        position = await client.publish(event)
        ledger.add(event, position)
        try:
            await client.rank(event.user_id, after=[position], timeout=DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            probes.late[kind] += 1
        else:
            probes.answers[kind][position.topic, position.partition, position.offset] = time.time()
        number += 1
        await asyncio.sleep(every)


def _probe_event(rng: random.Random, kind: str, number: int, item_id: str, prefix: str) -> Interaction | Review:
    user_id = f"probe-{kind}-{number % PROBE_USERS}"
    if kind == "review":
        return _review(rng, f"{prefix}probe-r{number}", user_id, item_id)
    return Interaction(event_id=f"{prefix}probe-i{number}", user_id=user_id, item_id=item_id, ts=time.time())


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
