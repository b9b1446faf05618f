"""Metrics keep to the conventions, and the dashboard and the alerts ask only for what the code has."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from tests.deploy.manifests import DEPLOY, ROOT, run, tool

MODULES = [*sorted((ROOT / "services").glob("*/metrics.py")), *sorted((ROOT / "shared").glob("*metrics.py"))]
TARGET_LABELS = {"job", "service", "instance"}  # what Prometheus adds at the scrape
STATES = ("ready", "off", "info")  # gauges that are 0 or 1; the others end in a base unit or in what they count
NO_BASE_UNITS = {"ms", "milliseconds", "us", "minutes", "hours", "days", "kb", "mb", "gb", "kib", "mib", "percent"}
UNBOUNDED = {"user", "user_id", "item", "item_id", "review", "review_id", "event_id", "trace_id", "offset", "text"}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "info": ("_info",)}
WORDS = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
SELECTOR = re.compile(r"\b(finestream_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"")


@dataclass(frozen=True)
class Metric:
    name: str
    kind: str
    labels: frozenset[str]


def declared() -> dict[str, Metric]:
    """Every metric of ours that a service registers when it is imported, by its name without a suffix."""
    for path in MODULES:
        import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found = {}
    for collector in set(REGISTRY._collector_to_names):
        if isinstance(collector, MetricWrapperBase):
            (family,) = collector.describe()
            found[family.name] = Metric(family.name, family.type, frozenset(collector._labelnames))
    return {name: metric for name, metric in found.items() if collectable(metric)}


def collectable(metric: Metric) -> bool:
    return not metric.name.startswith(("python_", "process_", "test"))


METRICS = declared()
SERIES = {metric.name + end: metric for metric in METRICS.values() for end in SUFFIXES[metric.kind]}


def expressions() -> Iterator[tuple[str, str]]:
    """Where, and the PromQL, of every panel and every alert."""
    dashboard = json.loads((DEPLOY / "grafana/dashboards/finestream.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for group in yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


EXPRESSIONS = list(expressions())


def where(value: object) -> str | None:
    return value if isinstance(value, str) and value.startswith(("panel", "alert")) else ""


def test_metrics_live_where_this_test_looks() -> None:
    makers = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}
    for path in [p for folder in ("services", "shared") for p in (ROOT / folder).rglob("*.py") if p not in MODULES]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client":
                assert not makers & {alias.name for alias in node.names}, f"{path}: a metric outside metrics.py"


def test_there_are_metrics_of_every_service() -> None:
    for service in ("gateway", "extractor", "graph_updater", "archiver", "ranking", "stream"):
        assert any(name.startswith(f"finestream_{service}_") for name in METRICS), service


@pytest.mark.parametrize("metric", [METRICS[name] for name in sorted(METRICS)], ids=lambda metric: metric.name)
def test_a_metric_is_named_by_the_conventions_and_bounded(metric: Metric) -> None:
    words = metric.name.split("_")
    assert re.fullmatch(r"finestream_[a-z0-9_]+", metric.name)
    assert not NO_BASE_UNITS & set(words), "base units: seconds, bytes, ratios"
    assert metric.kind in SUFFIXES, "histograms, not summaries, across replicas"
    if metric.kind == "counter":
        assert "total" not in words, "the client library adds _total"
    else:
        assert words[-1].endswith("s") or words[-1] in (*STATES, "ratio"), (
            "a name ends in seconds, bytes, ratio, or what is counted"
        )
        assert not metric.name.endswith("_total"), "_total is a counter's"
    assert not UNBOUNDED & metric.labels, "a label with a user or an item makes a series of each"


@pytest.mark.parametrize(("place", "expression"), EXPRESSIONS, ids=where)
def test_an_expression_asks_for_metrics_that_the_code_has(place: str, expression: str) -> None:
    names = {word for word in WORDS.findall(unquoted(expression)) if word.startswith("finestream_")}
    assert names or "up{" in expression or "process_" in expression, f"{place} asks for nothing of ours"
    assert names <= set(SERIES)


@pytest.mark.parametrize(("place", "expression"), EXPRESSIONS, ids=where)
def test_an_expression_selects_and_groups_by_labels_that_its_metrics_have(place: str, expression: str) -> None:
    used: set[str] = set()
    for name, selector in SELECTOR.findall(expression):
        labels = SERIES[name].labels | TARGET_LABELS | ({"le"} if name.endswith("_bucket") else set())
        used |= labels
        assert {label for label, _ in MATCHER.findall(selector)} <= labels, place
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        if used:
            assert {label.strip() for label in grouped.split(",")} <= used, place


def test_the_label_values_that_are_asked_for_are_written_somewhere_in_the_code() -> None:
    code = "\n".join(
        p.read_text() for folder in ("services", "shared") for p in (ROOT / folder).rglob("*.py") if "pb" not in p.parts
    )
    for place, expression in EXPRESSIONS:
        for name, selector in SELECTOR.findall(expression):
            for label, values in MATCHER.findall(selector):
                if label in TARGET_LABELS | {"code", "method"}:  # gRPC's own
                    continue
                for value in values.split("|"):
                    assert f'"{value}"' in code, f"{place}: {name} never has {label}={value}"


def test_prometheus_parses_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"checked:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, (_, expression) in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "checked", "rules": rules}]}))
    output = run(tool("promtool", "apt-get install prometheus"), "check", "rules", file)
    assert f"{len(EXPRESSIONS)} rules found" in output


def test_a_misspelt_metric_would_be_found() -> None:
    with pytest.raises(AssertionError):
        test_an_expression_asks_for_metrics_that_the_code_has("panel", "rate(finestream_rpc_secondz_count[5m])")
    with pytest.raises(AssertionError):
        test_an_expression_selects_and_groups_by_labels_that_its_metrics_have(
            "panel", 'sum by (user) (rate(finestream_rpc_seconds_count{rung="full"}[5m]))'
        )


def unquoted(expression: str) -> str:
    return re.sub(r'"[^"]*"', '""', expression)
