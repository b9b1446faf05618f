"""How fast one process joins and writes: `python -m tests.services.graph_updater.bench_handlers [EVENTS]`.

The real handlers over the embedded store and the default space; Kafka is left out (edges go straight to the items
handler), so the figure is what joining, encoding, deriving vectors and writing cost.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop

from services.graph_updater.main import Graph
from services.graph_updater.settings import GraphUpdaterSettings
from services.graph_updater.store_edge import open_edge
from shared import space, topics
from shared.events import Event, Interaction, ItemSemantics, Opinions, Pair, Source
from tests.services.graph_updater.doubles import BASE, Recorder, deliver

USERS, ITEMS, BATCH = 2000, 1000, 2000


def history(count: int, chance: random.Random) -> list[Event]:
    """Nine clicks to a review with two pairs, over users and items of whom some are popular."""
    definition = space.load()
    noise = np.random.default_rng(1)
    facts: list[Event] = []
    for n in range(count):
        user, item_id = f"u{int(USERS * chance.random() ** 2)}", f"i{int(ITEMS * chance.random() ** 2)}"
        if n % 10:
            facts.append(Interaction(event_id=f"e{n}", user_id=user, item_id=item_id, ts=BASE + n))
            continue
        vector = noise.integers(-127, 127, definition.opinion_dim, dtype=np.int8).tobytes()
        pairs = [Pair(name, "good enough", vector, 1, 0, 40, "a quote of forty characters or about that")
                 for name in definition.attribute_names[:2]]  # fmt: skip
        facts.append(Opinions(
            review_id=f"r{n}", user_id=user, item_id=item_id, ts=BASE + n, extractor="x", extractor_version=1,
            content_hash="0" * 32, space=definition.name, pairs=pairs, source=Source(topics.REVIEWS, 0, n, BASE),
            vector=noise.integers(-127, 127, definition.embedding_dim, dtype=np.int8).tobytes(),
        ))  # fmt: skip
    return facts


async def measure(count: int, folder: Path) -> None:
    definition, settings = space.load(), GraphUpdaterSettings()
    store, producer = open_edge(folder, definition, settings.flush_seconds), Recorder([])
    store.start()
    graph = Graph.of(settings, definition, store, producer)  # type: ignore[arg-type]  # a recorder for a producer
    await graph.on_items([
        deliver(ItemSemantics(
            item_id=f"i{n}", ts=BASE, space=definition.name, extractor_version=1, content_hash="h",
            vector=bytes([n % 100 + 1]) * definition.embedding_dim, source=Source(topics.ITEMS, 0, n, BASE),
        ), n)
        for n in range(ITEMS)
    ])  # fmt: skip
    facts = history(count, random.Random(3))
    spent = {"users": 0.0, "items": 0.0}
    cpu = time.process_time()
    for start in range(0, count, BATCH):
        producer.sent.clear()
        began = time.perf_counter()
        await graph.on_users([deliver(fact, start + n) for n, fact in enumerate(facts[start : start + BATCH])])
        between = time.perf_counter()
        await graph.on_items([deliver(edge, n) for n, edge in enumerate(producer.of(topics.ITEM_EDGES))])
        spent["users"] += between - began
        spent["items"] += time.perf_counter() - between
    cpu = time.process_time() - cpu
    for name, seconds in spent.items():
        print(f"{name}: {count / seconds:,.0f} events/s, {seconds / count * BATCH * 1000:.1f} ms a batch of {BATCH}")
    print(f"both: {count / sum(spent.values()):,.0f} events/s, {cpu / count * 1e6:.0f} us of CPU an event")
    await store.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        uvloop.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000, Path(made)))
