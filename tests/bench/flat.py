"""What an event costs graph_updater in CPU, joining and writing, as users, items and edges grow 100-fold.

The service's own handlers over the embedded store, in one process, without Kafka: 20,000 clicks, each joined into its
user, and its edge into its item. Only the size differs. In both, every event of a batch has a user and an item of its
own, drawn at random (hence batches of 200), no user comes twice, users begin with one click and items with five, and
every item is announced at once. So that no state grows more than in the large graph, the small ones are 20, one after
the other. "Nothing in memory" is the same once more as after a restart. What runs by the clock and not
by the event is left out: the sweep of vectors, announcements that wait, the engine's flush to disk. Each runs in a
process of its own, in turn, four times; the best counts, since what else a machine does disturbs CPU times, too.
"""

import asyncio
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from prometheus_client import REGISTRY

from services.graph_updater.main import Graph
from services.graph_updater.settings import GraphUpdaterSettings
from services.graph_updater.store import KINDS, Store
from services.graph_updater.store_edge import open_edge
from shared import space, topics
from shared.service import spare_collector
from shared.streams import Delivery, Handler
from tests.bench.alone import RATE, Numbers, best
from tests.bench.figure import Figure, figure
from tests.services.graph_updater.doubles import Recorder, click, deliver

USERS, ITEMS = 1_000, 200
GROWTH: Final = 100
EVENTS: Final = 20_000
BATCH: Final = ITEMS  # the small graph has no more items that differ
FILLED_AT_ONCE: Final = 2_000
GOAL: Final = 0.9
ROUNDS: Final = 4
COST: Final = "CPU µs an event"
IN_MEMORY: Final = "share of states found in memory"
WARM, COLD = "", "nothing in memory: "
WHAT: Final = (
    "CPU µs an event of graph_updater's handlers, which join a click into its user and its item and write both to the "
    f"embedded store, with {GROWTH * USERS:,} users and edges and {GROWTH * ITEMS:,} items against {USERS:,} and "
    f"{ITEMS:,}; batches of {BATCH} in which no user and no item comes twice; ratio: small / large, 1 is flat"
)
CALLS: Final = ("get", "put")
FOUND: Final = ("hits", "misses")


def figures() -> list[Figure]:
    runs = best({
        "small": (measure, USERS, ITEMS, EVENTS // USERS),
        "large": (measure, GROWTH * USERS, GROWTH * ITEMS, 1),
    }, rounds=ROUNDS)  # fmt: skip
    ours, baseline = runs["large"], runs["small"]
    parts = {f"{COLD}ratio": baseline[COLD + COST] / ours[COLD + COST]}
    parts |= {f"{name}, {size}": run[name] for name in ours if RATE not in name for size, run in runs.items()}
    return [figure("flat", WHAT, ours[COST], baseline[COST], "µs", goal=GOAL, less_is_better=True, parts=parts)]


def measure(users: int, items: int, graphs: int) -> Numbers:
    """EVENTS events with all in memory and as many with nothing, spread over so many graphs of this size."""
    spare_collector()  # as the service does
    meters = {WARM: Meter(), COLD: Meter()}
    for _ in range(graphs):
        with tempfile.TemporaryDirectory(prefix="finestream-bench-") as folder:
            asyncio.run(measured(Path(folder), users, items, EVENTS // graphs, meters))
    return {name + part: value for name, meter in meters.items() for part, value in meter.numbers().items()}


async def measured(folder: Path, users: int, items: int, events: int, meters: Mapping[str, "Meter"]) -> None:
    """Fill a graph, and feed it `events` a meter; before the second, memory is emptied."""
    settings, chance = GraphUpdaterSettings(announce_seconds=0.0), random.Random(users)
    store = open_edge(folder, space.load(), settings.flush_seconds)
    try:
        graph = Fed(store, settings)
        await graph.feed(_clicks(range(users), range(items), 0), FILLED_AT_ONCE)
        drawn = chance.sample(range(users), events), chance.sample(range(items), items)
        for n, meter in enumerate(meters.values(), 1):
            with meter.reading(events):
                meter.cpu += await graph.feed(_clicks(*drawn, n * users), BATCH)
            graph = Fed(store, settings)
    finally:
        await store.close()


def _clicks(users: Sequence[int], items: Sequence[int], first: int) -> Iterator[Delivery]:
    """One of each user, on items in turn."""
    for n, (user, item) in enumerate(zip(users, cycle(items)), first):
        yield deliver(click(n, f"user-{user}", f"item-{item}"), n)


class Fed:
    """A graph with nothing in memory over a store, and a producer whose edges come back to it."""

    def __init__(self, store: Store, settings: GraphUpdaterSettings) -> None:
        self._sent = Recorder([])
        self._graph = Graph.of(settings, space.load(), store, self._sent)  # type: ignore[arg-type]

    async def feed(self, clicks: Iterator[Delivery], batch: int) -> float:
        """CPU seconds of the handlers, all threads; what it takes to make events is not counted."""
        seconds = 0.0
        while deliveries := list(islice(clicks, batch)):
            seconds += await _cpu_seconds(self._graph.on_users, deliveries)
            edges = [deliver(edge, n) for n, edge in enumerate(self._sent.of(topics.ITEM_EDGES))]
            seconds += await _cpu_seconds(self._graph.on_items, edges)
            self._sent.sent.clear()
        return seconds


async def _cpu_seconds(handle: Handler, deliveries: Sequence[Delivery]) -> float:
    started = time.process_time()
    refused = await handle(deliveries)
    assert not refused, refused
    return time.process_time() - started


@dataclass
class Meter:
    """CPU, which RATE counts instead of time, and what the service's metrics say meanwhile."""

    events: int = 0
    cpu: float = 0.0
    told: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*CALLS, *FOUND), 0.0))

    @contextmanager
    def reading(self, events: int) -> Iterator[None]:
        self.events += events
        before = _told()
        yield
        after = _told()
        self.told = {name: value + after[name] - before[name] for name, value in self.told.items()}

    def numbers(self) -> Numbers:
        of_store = {f"{call} of the store, µs an event": 1e6 * self.told[call] / self.events for call in CALLS}
        found = self.told["hits"] / (self.told["hits"] + self.told["misses"])
        return {RATE: self.events / self.cpu, COST: 1e6 * self.cpu / self.events, **of_store, IN_MEMORY: found}


def _told() -> dict[str, float]:
    name = "finestream_graph_updater"
    seconds = {call: _metric(f"{name}_store_seconds_sum", call=call) for call in CALLS}
    return seconds | {found: _metric(f"{name}_cache_{found}_total") for found in FOUND}


def _metric(name: str, **labels: str) -> float:
    return sum(REGISTRY.get_sample_value(name, {"kind": kind, **labels}) or 0.0 for kind in KINDS)
