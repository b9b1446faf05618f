"""How many events a second one graph_updater decodes, joins and writes, against a stock Faust agent that drops them.

40,000 events, nine clicks to a review with two pairs, over 5,000 users and 1,000 items of whom some are popular, lie
in 4 partitions of an embedded broker. The service is the cluster's own process over the embedded store. An event is
done when its user and its item are written: its item-edge has been through Kafka too, and the item is announced.
The baseline receives the same bytes. Each runs alone, in turn, twice; the best counts.
"""

import tempfile
import time
from pathlib import Path
from typing import Final

from shared import topics
from shared.space import DEFAULT_SPACE
from tests.bench.alone import RATE, Numbers, best
from tests.bench.cores import cpu_seconds
from tests.bench.figure import Figure, figure
from tests.bench.filled import PARTITIONS, broker, mixed
from tests.bench.stock_faust import stock
from tests.running import Running

EVENTS: Final = 40_000
GOAL: Final = 1.5
POLL_SECONDS: Final = 0.2
DONE: Final = "finestream_stream_records_total"
FACTS: Final = (topics.INTERACTIONS, topics.OPINIONS)
WHAT: Final = (
    "events/s of one graph_updater process, each decoded, joined into its user and its item and written to the "
    "embedded store, against a stock Faust agent that receives the same bytes and drops them"
)


def figures() -> list[Figure]:
    with broker(mixed(EVENTS)) as bootstrap:
        runs = best(
            {
                "ours": (ours, EVENTS),
                "stock": (stock, bootstrap, [topics.in_space(topic, DEFAULT_SPACE) for topic in FACTS], EVENTS),
            }
        )
    parts = {name: value for name, value in runs["ours"].items() if name != RATE}
    parts["stock: CPU µs an event"] = runs["stock"]["CPU µs an event"]
    return [figure("graph", WHAT, runs["ours"][RATE], runs["stock"][RATE], RATE, goal=GOAL, parts=parts)]


def ours(count: int) -> Numbers:
    """The service over a broker of its own: its group has read nothing there yet."""
    with broker(mixed(count)) as bootstrap, tempfile.TemporaryDirectory(prefix="finestream-bench-") as folder:
        service = Running(
            "graph_updater", Path(folder), FINESTREAM_KAFKA_BOOTSTRAP=bootstrap,
            FINESTREAM_KAFKA_PARTITIONS=str(PARTITIONS), FINESTREAM_QDRANT_PATH=str(Path(folder) / "qdrant"),
        ).ready()  # fmt: skip
        try:
            return _measure(service, count)
        finally:
            service.stop()


def _measure(service: Running, count: int) -> Numbers:
    first, began, cpu = _joined(service), time.perf_counter(), cpu_seconds(service.process.pid)
    while _written(service) < count:
        time.sleep(POLL_SECONDS)
    seconds, events = time.perf_counter() - began, count - first
    return {
        RATE: events / seconds,
        "CPU µs an event": 1e6 * (cpu_seconds(service.process.pid) - cpu) / events,
        "of it waiting for the store, µs an event": 1e6 * _store_seconds(service) / count,
        "rows written an event": _rows(service) / count,
    }


def _joined(service: Running) -> float:
    return sum(service.metric(DONE, stream="users", topic=topic) for topic in FACTS)


def _written(service: Running) -> float:
    """Edges: each is made of an event, and comes last."""
    return service.metric(DONE, stream="items", topic=topics.ITEM_EDGES)


def _store_seconds(service: Running) -> float:
    name = "finestream_graph_updater_store_seconds_sum"
    return sum(service.metric(name, kind=kind, call=call) for kind in ("users", "items") for call in ("get", "put"))


def _rows(service: Running) -> float:
    return sum(service.metric("finestream_graph_updater_writes_total", kind=kind) for kind in ("users", "items"))
