"""Metrics of the gateway."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from shared.metrics import LATENCY_BUCKETS

PUBLISHED: Final = Counter("finestream_gateway_published_total", "Events that Kafka has acknowledged", ["topic"])
REFUSED: Final = Counter("finestream_gateway_refused_total", "Events not taken, by reason", ["reason"])
PUBLISH_SECONDS: Final = Histogram(
    "finestream_gateway_publish_seconds", "From a valid event to Kafka's acknowledgement", buckets=LATENCY_BUCKETS
)
IN_FLIGHT: Final = Gauge("finestream_gateway_in_flight_events", "Events that wait for Kafka's acknowledgement")
