"""Metrics of the archiver."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from shared.metrics import LATENCY_BUCKETS

ARCHIVED: Final = Counter("finestream_archiver_archived_total", "Records written to the archive", ["topic"])
SKIPPED: Final = Counter(
    "finestream_archiver_skipped_total",
    "Records that do not decode; their owners dead-letter them",
    ["topic", "reason"],
)
FORGOTTEN: Final = Counter(
    "finestream_archiver_forgotten_letters_total", "Dead letters taken back because their user was erased"
)
ERASED: Final = Counter(
    "finestream_archiver_erased_rows_total", "Rows left out or removed because their user was erased", ["topic"]
)
WRITTEN: Final = Counter("finestream_archiver_written_bytes_total", "Bytes of Parquet written, by why", ["why"])
FLUSH_SECONDS: Final = Histogram(
    "finestream_archiver_flush_seconds", "Time of one flush, with the erasures it applies", buckets=LATENCY_BUCKETS
)
FAILURES: Final = Counter("finestream_archiver_write_failures_total", "Flushes that failed and are tried again")
FILES: Final = Gauge("finestream_archiver_files", "Files that the manifest names")
BUFFERED: Final = Gauge("finestream_archiver_buffered_bytes", "Records read from Kafka and not archived yet")
LAG_RECORDS: Final = Gauge("finestream_archiver_lag_records", "Records in Kafka that are not archived yet", ["topic"])
LAG_SECONDS: Final = Gauge("finestream_archiver_lag_seconds", "How long the oldest of them has been waiting", ["topic"])
RETENTION_SECONDS: Final = Gauge("finestream_archiver_retention_seconds", "Kafka's retention, which lag must not reach")
RESETS: Final = Counter(
    "finestream_archiver_offset_resets_total",
    "Partitions whose log no longer held the next offset",
    ["topic", "reason"],
)
EXPIRED: Final = Counter(
    "finestream_archiver_expired_records_total", "Offsets that left Kafka before they were archived", ["topic"]
)
