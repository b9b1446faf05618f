"""Metrics of graph_updater. `kind` is users or items."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from shared.metrics import LATENCY_BUCKETS

NODES: Final = Gauge("finestream_graph_updater_nodes", "Users and items in the store", ["kind"])
WRITES: Final = Counter("finestream_graph_updater_writes_total", "States that the store has acknowledged", ["kind"])
MERGES: Final = Counter(
    "finestream_graph_updater_merges_total", "States joined with what another writer had written meanwhile", ["kind"]
)
JOIN_SECONDS: Final = Histogram(
    "finestream_graph_updater_join_seconds", "Joining one batch of facts into states", ["kind"], buckets=LATENCY_BUCKETS
)
STORE_SECONDS: Final = Histogram(
    "finestream_graph_updater_store_seconds", "One call to the store", ["kind", "call"], buckets=LATENCY_BUCKETS
)
CACHE_HITS: Final = Counter("finestream_graph_updater_cache_hits_total", "States found in memory", ["kind"])
CACHE_MISSES: Final = Counter("finestream_graph_updater_cache_misses_total", "States asked of the store", ["kind"])
CACHE_BYTES: Final = Gauge("finestream_graph_updater_cache_bytes", "Estimated size of the cached states", ["kind"])
EDGES: Final = Counter(
    "finestream_graph_updater_edges_total", "Item edges that Kafka has acknowledged", ["kind"]
)  # kind: interaction, review, blank
ANNOUNCED: Final = Counter("finestream_graph_updater_announced_total", "Item states that Kafka has acknowledged")
UNANNOUNCED: Final = Gauge("finestream_graph_updater_unannounced_items", "Items whose newest state is to be announced")
DIRTY: Final = Gauge(
    "finestream_graph_updater_dirty_users", "Users whose vector is to be made of what they have met since"
)
DIRTY_DROPPED: Final = Counter(
    "finestream_graph_updater_dirty_dropped_total", "Users given up, or pushed out by newer ones, until their next fact"
)
WAITING: Final = Gauge("finestream_graph_updater_waiting_calls", "GetUsers calls that wait for `after`")
FLUSH_SECONDS: Final = Histogram(
    "finestream_graph_updater_flush_seconds", "One flush of the embedded engine", ["kind"], buckets=LATENCY_BUCKETS
)
