"""Quantiles of a service's histogram are read as Prometheus reads them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from shared.cli.demo import scrape

BOUNDS = (0.1, 0.2, 0.4, 0.8)


def scraped(values: list[float], kind: str = "interaction") -> dict[str, scrape.Histogram]:
    registry = CollectorRegistry()
    histogram = Histogram(scrape.FRESHNESS, "x", ["kind"], buckets=BOUNDS, registry=registry)
    for value in values:
        histogram.labels(kind).observe(value)
    return scrape.parse(generate_latest(registry).decode())


def test_a_quantile_is_linear_within_its_bucket() -> None:
    found = scraped([0.15] * 10)["interaction"]
    assert found.total == 10
    assert found.quantile(0.5) == pytest.approx(0.15)
    assert found.quantile(1.0) == pytest.approx(0.2)


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert scraped([5.0] * 3)["interaction"].quantile(0.95) == 0.8


def test_the_difference_of_two_scrapes_is_what_came_between() -> None:
    between = scraped([0.05] * 90 + [0.3] * 10)["interaction"].minus(scraped([0.05] * 90)["interaction"])
    assert between.total == 10
    assert 0.2 <= (between.quantile(0.5) or 0) <= 0.4


def test_nothing_counted_has_no_quantile() -> None:
    assert scrape.Histogram({}).quantile(0.5) is None
    assert scraped([]) == {}


@given(st.lists(st.floats(0.001, 0.79), min_size=1, max_size=50))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float]) -> None:
    found = scraped(values)["interaction"].quantile(0.5)
    truth = sorted(values)[(len(values) - 1) // 2]
    edges = (0.0, *BOUNDS)
    low, high = next((a, b) for a, b in pairwise(edges) if a < truth <= b)
    assert found is not None
    assert low - 1e-9 <= found <= high + 1e-9
