"""Metrics of every stream (shared/streams.py). `stream` is the stream's name, `topic` the plain topic name."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from shared.metrics import LATENCY_BUCKETS

RECORDS: Final = Counter(
    "finestream_stream_records_total",
    "Records finished: their effect is durable, or they are dead letters",
    ["stream", "topic"],
)
BATCH_RECORDS: Final = Histogram(
    "finestream_stream_batch_records",
    "Records that were read together",
    ["stream"],
    buckets=tuple(2.0**i for i in range(13)),
)
HANDLER_SECONDS: Final = Histogram(
    "finestream_stream_handler_seconds", "Time of one call of the handler", ["stream"], buckets=LATENCY_BUCKETS
)
LAG: Final = Gauge(
    "finestream_stream_lag_records",
    "Records of the assigned partitions that the broker has and the stream has not finished",
    ["stream", "topic"],
)
BACKING_OFF: Final = Gauge(
    "finestream_stream_backing_off", "1 while the stream waits because a part it needs does not answer", ["stream"]
)
RETRIES: Final = Counter("finestream_stream_retries_total", "Attempts that ended in a back-off", ["stream"])
RESTARTS: Final = Counter(
    "finestream_stream_restarts_total", "Times that the stream's Kafka consumer was lost and built anew", ["stream"]
)
