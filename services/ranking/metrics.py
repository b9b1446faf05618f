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
    "wait", "hydrate", "queue", "ladder", "source", "filter", "score", "select", "diversify", "explore", "explain",
    "respond",
)  # fmt: skip
STAGE: Final = {name: STAGE_SECONDS.labels(name) for name in STAGES}  # labels() takes longer than the observation
ANSWERS: Final = Counter("finestream_ranking_answers_total", "Rankings, by the rung of the degrade ladder", ["rung"])
REFUSED: Final = Counter("finestream_ranking_refused_total", "Requests that were not ranked, by reason", ["reason"])
BATCH_SIZE: Final = Histogram(
    "finestream_ranking_batch_requests",
    "Requests of one micro-batch",
    ["batcher"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
QUEUE: Final = Gauge("finestream_ranking_queue_requests", "Requests that wait", ["batcher"])
TABLE_ROWS: Final = Gauge("finestream_ranking_table_items", "Rows of the item table")
TABLE_BYTES: Final = Gauge("finestream_ranking_table_bytes", "Of the item table and its copy in one byte a number")
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
IMPRESSIONS_DROPPED: Final = Counter(
    "finestream_ranking_impressions_dropped_total", "Impressions that were not written"
)
RULES_FAILURES: Final = Counter(
    "finestream_ranking_rules_failures_total", "Times a changed file of rules was refused: the rules before it stayed"
)
CACHED_USERS: Final = Gauge("finestream_ranking_cached_users", "Last known user states held")
