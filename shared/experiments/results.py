"""Results as rows (docs/results.json), and those rows as a document (docs/results.md), which says nothing else.

A row: {experiment, dataset, protocol, model, slice, metric, mean, sd, seeds}. `experiment` is the config's name: one
data set and protocol may have two tables. `sd` is over seeds, null where there is one fit. Beside the rows, `runs`
tells of each experiment what is not a figure: title, note, hardware, date, what was compared with what.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.experiments.cache import Outcome
from shared.experiments.experiment import Measured
from shared.experiments.slices import LIVE, OVERALL, Bools
from shared.experiments.statistics import Comparison, compare, holm, spread

METRICS: Final = ("hr@10", "hr@20", "ndcg@10", "ndcg@20", "mrr")
JUDGED: Final = "ndcg@20"  # what models are compared by
COSTS: Final = (
    "coverage@10", "gini@10", "epochs", "samples", "seconds", "choosing_seconds", "peak_mib", "device_peak_mib",
    "parameters",
)  # fmt: skip
DIGITS: Final = 6  # significant ones that are kept

JSONRow = dict[str, Any]


@dataclass
class Results:
    """The content of results.json."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    rows: list[JSONRow] = field(default_factory=list)

    @staticmethod
    def read(path: Path) -> "Results":
        """Of a file; empty where there is none. Raises ValueError for a file that is something else."""
        if not path.exists():
            return Results()
        stored = json.loads(path.read_text())
        if not isinstance(stored, dict) or stored.keys() != {"runs", "rows"}:
            raise ValueError(f"{path} holds no results")
        return Results(stored["runs"], stored["rows"])

    def write(self, path: Path) -> None:
        """One row a line, so that a change is a short difference."""
        path.parent.mkdir(parents=True, exist_ok=True)
        runs = ",\n".join(json.dumps(run, indent=1) for run in self.runs)
        rows = ",\n".join(json.dumps(row) for row in self.rows)
        path.write_text(f'{{"runs": [\n{runs}\n], "rows": [\n{rows}\n]}}\n')

    def updated(self, new: "Results") -> "Results":
        """Experiments of `new` in the places of the same ones here, others behind; nothing else is touched."""
        names = [run["experiment"] for run in self.runs]
        fresh = {run["experiment"]: run for run in new.runs}
        names += [name for name in fresh if name not in names]
        held = {run["experiment"]: run for run in self.runs}
        return Results(
            [fresh.get(name, held.get(name, {})) for name in names],
            [row for name in names for row in (new if name in fresh else self).rows if row["experiment"] == name],
        )

    def of(self, experiment: str) -> "Figures":
        return Figures([row for row in self.rows if row["experiment"] == experiment])


class Figures:
    """One experiment's rows, to look figures up in."""

    def __init__(self, rows: Iterable[JSONRow]) -> None:
        self._rows = {(row["model"], row["slice"], row["metric"]): row for row in rows}
        self.models = list(dict.fromkeys(model for model, _, _ in self._rows))
        self.slices = list(dict.fromkeys(slice_ for _, slice_, _ in self._rows))

    def row(self, model: str, slice_: str, metric: str) -> JSONRow | None:
        return self._rows.get((model, slice_, metric))

    def mean(self, model: str, slice_: str, metric: str) -> float | None:
        row = self.row(model, slice_, metric)
        return None if row is None else row["mean"]

    def best(self, slice_: str, metric: str) -> float | None:
        found = [mean for model in self.models if (mean := self.mean(model, slice_, metric)) is not None]
        return max(found, default=None)


def results_of(measured: Measured) -> Results:
    """An experiment's rows and what is told of it. Raises ValueError where nothing was measured."""
    if not measured.outcomes:
        raise ValueError(f"nothing was measured of {measured.experiment.name}")
    experiment = measured.experiment
    common = {
        "experiment": experiment.name,
        "dataset": experiment.spec.name,
        "protocol": measured.protocol,
    }
    against = references(measured)
    rows = [
        {**common, "model": label, "slice": slice_, "metric": metric, **_value(values)}
        for label in measured.outcomes
        for slice_, metric, values in [*_figures(measured, label), *_costs(measured, label)]
    ]
    for label, metric, value in _comparisons(measured, against):
        rows.append({**common, "model": label, "slice": OVERALL, "metric": metric, **_value([value])})
    found = [outcome for outcomes in measured.outcomes.values() for outcome in outcomes]
    run = {
        **common,
        "title": experiment.title,
        "note": experiment.note,
        "measured": max(outcome.measured for outcome in found),
        "machine": sorted({outcome.machine for outcome in found}),
        "figures": {name: _short(value) for name, value in measured.figures.items() if value == value},
        "targets": {name: int(kept.sum()) for name, kept in measured.slices.of.items()},
        "against": against,
        "failed": measured.failed,
        "chosen": {label: [dict(outcome.chosen) for outcome in of] for label, of in measured.outcomes.items()},
        "cut_short": [label for label, of in measured.outcomes.items() if any(outcome.cut_short for outcome in of)],
    }
    return Results([run], _in_order(rows, list(measured.outcomes)))


def references(measured: Measured) -> dict[str, str]:
    """label -> what it is compared with: what its config says, or the best baseline by the judged metric."""
    means = {label: _judged(measured, label).mean() for label in measured.outcomes}
    baselines = [row.label for row in measured.experiment.rows if row.baseline and row.label in means]
    best = max(baselines, key=lambda label: means[label], default=None)
    found = {}
    for row in measured.experiment.rows:
        other = row.against or best
        if row.label in means and other in means and other != row.label:
            found[row.label] = other
    return found


def _figures(measured: Measured, label: str) -> Iterable[tuple[str, str, list[float]]]:
    outcomes = measured.outcomes[label]
    for slice_, kept in measured.slices.of.items():
        columns = {metric: (LIVE if slice_.startswith(LIVE) else "") + metric for metric in METRICS}
        if any(column not in outcome.metrics for outcome in outcomes for column in columns.values()):
            continue  # a model that is not servable has no live figures
        yield slice_, "targets", [float(kept.sum())]
        for metric, column in columns.items():
            yield slice_, metric, [_mean_of(outcome, column, kept) for outcome in outcomes]


def _mean_of(outcome: Outcome, column: str, kept: Bools) -> float:
    at = list(outcome.metrics).index(column)
    return float(outcome.targets[kept, at].mean(dtype=np.float64))


def _costs(measured: Measured, label: str) -> Iterable[tuple[str, str, list[float]]]:
    for metric in COSTS:
        values = [of.costs[metric] for of in measured.outcomes[label] if metric in of.costs]
        if values and all(value == value for value in values):
            yield OVERALL, metric, values


def _comparisons(measured: Measured, against: Mapping[str, str]) -> Iterable[tuple[str, str, float]]:
    """Corrected over all rows of the table that are compared with anything."""
    kept = measured.slices.of[OVERALL]
    users = [user for user, keep in zip(measured.slices.users, kept, strict=True) if keep]
    found: dict[str, Comparison] = {}
    for other in dict.fromkeys(against.values()):
        those = {label: _judged(measured, label) for label, reference in against.items() if reference == other}
        found |= compare(those, _judged(measured, other), users)
    corrected = holm({label: comparison.p for label, comparison in found.items()})
    for label, comparison in found.items():
        yield label, f"{JUDGED} difference", comparison.difference
        yield label, f"{JUDGED} difference, low", comparison.low
        yield label, f"{JUDGED} difference, high", comparison.high
        yield label, "p", comparison.p
        yield label, "p, corrected", corrected[label]


def _judged(measured: Measured, label: str) -> NDArray[np.float64]:
    """(T',) the judged metric of every target of the overall slice, its mean over the seeds."""
    of = measured.outcomes[label]
    kept = measured.slices.of[OVERALL]
    seeds = [outcome.targets[kept, list(outcome.metrics).index(JUDGED)] for outcome in of]
    mean: NDArray[np.float64] = np.stack(seeds).mean(0, dtype=np.float64)
    return mean


def _value(values: Sequence[float]) -> dict[str, Any]:
    mean, sd = spread(values)
    return {"mean": _short(mean), "sd": None if sd is None else _short(sd), "seeds": len(values)}


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _in_order(rows: list[JSONRow], labels: list[str]) -> list[JSONRow]:
    return sorted(rows, key=lambda row: labels.index(row["model"]))
