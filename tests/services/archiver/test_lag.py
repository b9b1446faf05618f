"""services/archiver/lag.py: how far behind, and a warning before Kafka forgets."""

import pytest
import structlog
from prometheus_client import REGISTRY

from services.archiver.lag import Lag
from shared import topics

A, B = (topics.REVIEWS, 0), (topics.REVIEWS, 1)
NOW = 1.7e9


def gauge(what: str) -> float | None:
    return REGISTRY.get_sample_value(f"finestream_archiver_lag_{what}", {"topic": topics.REVIEWS})


def test_lag_is_what_is_in_kafka_and_not_in_the_archive() -> None:
    Lag(3600.0, 0.5).observe({A: 10, B: 7}, {A: 4, B: 7}, {A: NOW - 30}, NOW)
    assert (gauge("records"), gauge("seconds")) == (6.0, 30.0)


def test_nothing_behind_is_no_lag_however_old_the_newest_record_is() -> None:
    Lag(3600.0, 0.5).observe({A: 10}, {A: 10}, {}, NOW)
    assert (gauge("records"), gauge("seconds")) == (0.0, 0.0)


def test_records_that_cannot_even_be_read_wait_since_they_were_seen() -> None:
    lag = Lag(3600.0, 0.5)
    lag.observe({A: 10}, {A: 4}, {}, NOW)
    lag.observe({A: 10}, {A: 4}, {}, NOW + 50)
    assert gauge("seconds") == 50.0


@pytest.mark.parametrize(("waited", "warned"), [(1700.0, 0), (1900.0, 1)])
def test_a_lag_near_the_retention_is_warned_of(waited: float, warned: int) -> None:
    with structlog.testing.capture_logs() as lines:
        lag = Lag(3600.0, 0.5)
        lag.observe({A: 10}, {A: 4}, {A: NOW - waited}, NOW)
        lag.observe({A: 10}, {A: 4}, {A: NOW - waited}, NOW)
    assert len(lines) == warned, "once a minute, not at every look"
