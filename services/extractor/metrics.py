"""The extractor's metrics. Labels are bounded: outcomes, reasons, polarities, kinds."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from shared.metrics import LATENCY_BUCKETS

REVIEWS: Final = Counter(
    "finestream_extractor_reviews_total",
    "Reviews published as opinions: with pairs, empty, unsupported (in a language that is not read), or failed",
    ["outcome"],
)
FOREIGN: Final = Counter(
    "finestream_extractor_foreign_texts_total",
    "Texts that rules and spans do not read, by their language",
    ["language"],
)
ITEMS: Final = Counter("finestream_extractor_items_total", "Items read: embedded, or without a text", ["outcome"])
PAIRS: Final = Counter("finestream_extractor_pairs_total", "Pairs kept", ["polarity"])
DROPPED: Final = Counter(
    "finestream_extractor_dropped_pairs_total", "Pairs dropped: quote_not_found, no_opinion, too_many", ["reason"]
)
FAILURES: Final = Counter(
    "finestream_extractor_failures_total",
    "Answers that gave no pairs (refusal, wrong_schema, ...) and calls that must wait (rate_limited, timeout, ...)",
    ["reason"],
)
PROVIDER_SECONDS: Final = Histogram(
    "finestream_extractor_provider_seconds",
    "Time to find the opinions of one batch",
    ["provider"],
    buckets=LATENCY_BUCKETS,
)
EMBEDDING_SECONDS: Final = Histogram(
    "finestream_extractor_embedding_seconds", "Time to embed one batch", ["kind"], buckets=LATENCY_BUCKETS
)
CACHE: Final = Counter(
    "finestream_extractor_cache_lookups_total", "Look-ups of texts, phrases and aspects", ["cache", "outcome"]
)
ALLOWED_CALLS: Final = Gauge(
    "finestream_extractor_allowed_calls", "Calls to the endpoint that may be in flight now: halved by each 429"
)
OPEN_CALLS: Final = Gauge("finestream_extractor_open_calls", "Calls to the endpoint in flight")
RETRIES: Final = Counter("finestream_extractor_call_retries_total", "Calls that failed and were made again", ["reason"])
# Of models only the configured ones are labels, whatever the endpoint calls itself.
TOKENS: Final = Counter(
    "finestream_extractor_tokens_total",
    "Tokens that the endpoint charged: prompt (new to it), cached (of a prompt that it knew), completion, embedding",
    ["kind", "model"],
)
COST: Final = Counter(
    "finestream_extractor_cost_usd_total",
    "What the endpoint charged by FINESTREAM_OPENAI_PRICES; no series for a model without a price",
    ["model"],
)

PAID_ANSWERS_TROUBLE: Final = Counter(
    "finestream_extractor_paid_answers_trouble_total",
    "Answers kept on disk that are damaged, and reads and writes of them that failed",
    ["kind"],
)
BUDGET_LEFT: Final = Gauge(
    "finestream_extractor_budget_left_dollars", "What this replica may still spend today; infinite without a budget"
)
BUDGET_LEFT.set(float("inf"))

POLARITY_NAMES: Final = {-1: "negative", 0: "neutral", 1: "positive"}


def by_label(counter: Counter, label: str) -> dict[str, float]:
    """What this process has counted so far, by one of the counter's labels."""
    found: dict[str, float] = {}
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                found[sample.labels[label]] = found.get(sample.labels[label], 0.0) + sample.value
    return found
