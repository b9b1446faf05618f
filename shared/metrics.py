"""Metrics that more than one service has, and the buckets all use. A service's own lie in its metrics.py.

Names: finestream_<what>_<unit>; seconds, bytes, _total for counters. No label ever holds a user or an item.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

# Geometric, 100 us to 105 s in steps of 2^(1/2): a quantile read from them is within 20 % of the truth.
LATENCY_BUCKETS: Final = tuple(round(1e-4 * 2 ** (i / 2), 7) for i in range(41))
# From 1 ms to an hour: what freshness is read from.
FRESHNESS_BUCKETS: Final = tuple(round(1e-3 * 2 ** (i / 2), 6) for i in range(45))

EVENT_TO_VISIBLE: Final = Histogram(
    "finestream_event_to_visible_seconds",
    "From the record's append time in the broker to the moment that Rank would reflect it",
    ["kind"],  # interaction, review, item
    buckets=FRESHNESS_BUCKETS,
)
DEAD_LETTERS: Final = Counter(
    "finestream_dead_letters_total", "Records that can never succeed, by topic and reason", ["topic", "reason"]
)
READY: Final = Gauge("finestream_ready", "1 when the service takes work")
RPC_SECONDS: Final = Histogram(
    "finestream_rpc_seconds", "Time of a gRPC call at the server", ["method", "code"], buckets=LATENCY_BUCKETS
)
RPC_REFUSED: Final = Counter(
    "finestream_rpc_refused_total",
    "Calls that a token does not allow: unauthenticated, permission, rate, size; by the token's name in its file",
    ["reason", "token"],
)
TOKENS_FAILURES: Final = Counter(
    "finestream_tokens_failures_total", "Times a changed file of tokens was refused: the tokens before it stayed"
)
SERVICE_INFO: Final = Gauge("finestream_service_info", "1, with the service's name and version", ["service", "version"])
