"""ranking's own metrics. No label ever holds a user or an item."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from shared.metrics import LATENCY_BUCKETS

STAGE_SECONDS: Final = Histogram(
    "finestream_ranking_stage_seconds",
    "Time of one stage: wait, hydrate and queue of a request, the others of a micro-batch",
    ["stage"],
    buckets=LATENCY_BUCKETS,
)
STAGES: Final = (
    "wait", "hydrate", "queue", "assign", "ladder", "source", "filter", "score", "select", "diversify", "explore",
    "explain", "respond",
)  # fmt: skip
STAGE: Final = {name: STAGE_SECONDS.labels(name) for name in STAGES}  # labels() takes longer than the observation
ANSWERS: Final = Counter(
    "finestream_ranking_answers_total", "Rankings, by the rung of the degrade ladder and variant", ["rung", "variant"]
)
VARIANT_SECONDS: Final = Histogram(
    "finestream_ranking_variant_seconds",
    "Time of ranking what a micro-batch has of one variant",
    ["variant"],
    buckets=LATENCY_BUCKETS,
)
VARIANT_READY: Final = Gauge(
    "finestream_ranking_variant_ready",
    "1 where a variant's bundle is in service; 0: control serves its users",
    ["variant"],
)
SHADOW_OVERLAP: Final = Histogram(
    "finestream_ranking_shadow_overlap_ratio",
    "Share of an answer's items that a shadow would have shown, too",
    ["variant"],
    buckets=[tenth / 10 for tenth in range(11)],
)
SHADOW_SECONDS: Final = Histogram(
    "finestream_ranking_shadow_seconds", "Time of one ranking by a shadow", ["variant"], buckets=LATENCY_BUCKETS
)
SHADOW_FAILURES: Final = Counter("finestream_ranking_shadow_failures_total", "Shadow rankings that failed", ["variant"])
SHADOW_SKIPPED: Final = Counter(
    "finestream_ranking_shadow_skipped_total", "Shadow rankings for which there was no time", ["variant"]
)
REFUSED: Final = Counter("finestream_ranking_refused_total", "Requests that were not ranked, by reason", ["reason"])
BATCH_SIZE: Final = Histogram(
    "finestream_ranking_batch_requests",
    "Requests of one micro-batch",
    ["batcher"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
QUEUE: Final = Gauge("finestream_ranking_queue_requests", "Requests that wait", ["batcher"])
TABLE_ROWS: Final = Gauge("finestream_ranking_table_items", "Rows of the item table")
TABLE_BYTES: Final = Gauge("finestream_ranking_table_bytes", "Of all item tables and their copies in one byte a number")
AVAILABLE_ROWS: Final = Gauge("finestream_ranking_available_items", "Rows of the item table that may be shown")
PENDING_ITEMS: Final = Gauge("finestream_ranking_pending_items", "Items told of as changed, not yet in the table")
REFRESHED: Final = Counter("finestream_ranking_refreshed_items_total", "Rows put into the item table")
REFRESH_RETRIES: Final = Counter(
    "finestream_ranking_refresh_retries_total", "Times graph_updater had to be asked again"
)
REFUSED_ITEMS: Final = Counter("finestream_ranking_refused_items_total", "Items that the model could not encode")
INVALID_STATES: Final = Counter("finestream_ranking_invalid_states_total", "Records of item-states passed over")
MODEL: Final = Gauge("finestream_ranking_model_info", "1 for the model that is served", ["version", "kind"])
MODEL_AGE: Final = Gauge(
    "finestream_ranking_model_data_age_seconds", "Age of the newest event the model was trained on; 0 without a model"
)
WATERMARK_AGE: Final = Gauge(
    "finestream_ranking_watermark_age_seconds", "Age of the newest event that the item table reflects; 0 when empty"
)
SWAPS: Final = Counter("finestream_ranking_bundle_swaps_total", "Bundles put into service")
SWAP_FAILURES: Final = Counter("finestream_ranking_bundle_failures_total", "Bundles refused: the old one was kept")
SWAP_SECONDS: Final = Histogram(
    "finestream_ranking_bundle_load_seconds", "From a new current.json to the swap", buckets=LATENCY_BUCKETS
)
BUNDLES_TOO_LARGE: Final = Counter(
    "finestream_ranking_bundles_too_large_total", "Bundles refused because memory would not have held them"
)
IMPRESSIONS_DROPPED: Final = Counter(
    "finestream_ranking_impressions_dropped_total", "Impressions that were not written"
)
RULES_FAILURES: Final = Counter(
    "finestream_ranking_rules_failures_total", "Times a changed file of rules was refused: the rules before it stayed"
)
EXPERIMENTS_FAILURES: Final = Counter(
    "finestream_ranking_experiments_failures_total",
    "Times a changed file of experiments was refused: what was read before it stayed",
)
CACHED_USERS: Final = Gauge("finestream_ranking_cached_users", "Last known user states held")
