"""The comparison as people read it: a table on the terminal, Markdown in the bundle."""

from datetime import UTC, datetime
from typing import Any, Final

from rich.table import Table

METRICS: Final = ("ndcg@10", "ndcg@20", "hr@10", "hr@20", "mrr")
PROTOCOL: Final = (
    "Global time split, full ranking over the items known before the test, items of the history masked. "
    "A history is what is strictly earlier, also during the test; items that were unknown before it count as "
    "misses; ties count in expectation; only users with a history before the test are asked. Figures are means "
    "over targets, of weights that have seen nothing after validation began. The published model was then "
    "fitted again on the whole log, so these are not its own figures but those of the same recipe."
)


def table(report: dict[str, Any]) -> Table:
    """Published model and baselines on the test."""
    drawn = Table(title="test: full ranking, split by time")
    drawn.add_column("model")
    for metric in METRICS:
        drawn.add_column(metric, justify="right")
    for name, figures in _rows(report):
        drawn.add_row(name, *(f"{figures[metric]:.4f}" for metric in METRICS))
    return drawn


def markdown(report: dict[str, Any]) -> str:
    """report.md of a bundle."""
    split = report["split"]
    return "\n".join(
        [
            f"# Published: {report['published']}",
            "",
            f"Why: {report['reason']}.",
            "",
            PROTOCOL,
            "",
            f"Test from {_when(split['test_from'])}, validation from {_when(split['validation_from'])}: "
            f"{split['train_interactions']} training interactions, {split['validation_targets']} validation targets, "
            f"{split['test_targets']} test targets of {split['test_users']} users.",
            "",
            *_lines("Test", _rows(report)),
            *_lines("Validation", list(report["validation"].items())),
        ]
    )


def _lines(title: str, rows: list[tuple[str, dict[str, Any]]]) -> list[str]:
    head = [f"## {title}", "", "| model | " + " | ".join(METRICS) + " |", "|---|" + "---:|" * len(METRICS)]
    body = [
        f"| {name} | " + " | ".join(f"{figures[metric]:.4f}" for metric in METRICS) + " |" for name, figures in rows
    ]
    return [*head, *body, ""]


def _rows(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list({**report["candidates"], **report["baselines"]}.items())


def _when(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
