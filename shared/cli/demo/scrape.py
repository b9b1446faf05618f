"""Reads a service's own histogram from its metrics port."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

FRESHNESS = "finestream_event_to_visible_seconds"


@dataclass(frozen=True)
class Histogram:
    """Cumulative counts by upper bound, as Prometheus has them."""

    counts: Mapping[float, float]

    def minus(self, earlier: "Histogram") -> "Histogram":
        return Histogram({bound: count - earlier.counts.get(bound, 0.0) for bound, count in self.counts.items()})

    @property
    def total(self) -> float:
        return max(self.counts.values(), default=0.0)

    def quantile(self, share: float) -> float | None:
        """As PromQL's histogram_quantile: linear within the bucket; None where nothing was counted."""
        wanted, below, counted = share * self.total, 0.0, 0.0
        if self.total == 0:
            return None
        for bound in sorted(self.counts):
            if self.counts[bound] >= wanted:
                if bound == inf:
                    return below
                inside = self.counts[bound] - counted
                return below + (bound - below) * ((wanted - counted) / inside if inside else 1.0)
            below, counted = bound, self.counts[bound]
        return below


async def freshness(url: str) -> dict[str, Histogram]:
    """The histogram of each kind of event at a service's metrics address."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        response.raise_for_status()
        return parse(await response.text())


def parse(text: str) -> dict[str, Histogram]:
    """kind -> histogram, from Prometheus' text format."""
    counts: dict[str, dict[float, float]] = {}
    for family in text_string_to_metric_families(text):
        if family.name != FRESHNESS:
            continue
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                counts.setdefault(sample.labels["kind"], {})[float(sample.labels["le"])] = sample.value
    return {kind: Histogram(buckets) for kind, buckets in counts.items()}
