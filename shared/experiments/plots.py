"""One drawing an experiment, from its rows: quality, head against tail, quality against time, new users.

matplotlib is a development dependency: without it there are no plots, and whoever asks is told.
"""

import re
from pathlib import Path
from typing import Any, Final

from shared.experiments.document import NAMES
from shared.experiments.results import JUDGED, Figures, Results
from shared.experiments.slices import OVERALL, USER_EVENTS

MAX_BYTES: Final = 100_000


class NoPlots(Exception):
    """matplotlib is not installed."""


def draw(results: Results, experiments: list[str], folder: Path) -> list[Path]:
    """Write <experiment>.svg for each into `folder`. The same rows give the same bytes. Raises NoPlots."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise NoPlots("no plots: matplotlib is not installed (pip install -e '.[dev]')") from None
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context({"svg.hashsalt": "finestream", "svg.fonttype": "none", "font.size": 8}):
        for run in results.runs:
            if run["experiment"] not in experiments:
                continue
            drawn = Figure(figsize=(11, 8), layout="constrained")
            _fill(drawn, run["title"], results.of(run["experiment"]))
            path = folder / f"{run['experiment']}.svg"
            drawn.savefig(path, metadata={"Date": None})
            path.write_text(re.sub(r"[ \t]+$", "", path.read_text(), flags=re.M))
            paths.append(path)
    return paths


def _fill(drawn: Any, title: str, figures: Figures) -> None:
    drawn.suptitle(title)
    axes = drawn.subplots(2, 2)
    _bars(axes[0, 0], figures)
    _head_and_tail(axes[0, 1], figures)
    _time(axes[1, 0], figures)
    _new_users(axes[1, 1], figures)


def _bars(ax: Any, figures: Figures) -> None:
    models = figures.models[::-1]
    ax.barh(models, [_mean(figures, m, OVERALL) for m in models], xerr=[_sd(figures, m, OVERALL) for m in models])
    ax.set_title("NDCG@20, ± deviation over seeds")


def _head_and_tail(ax: Any, figures: Figures) -> None:
    for at, model in enumerate(figures.models):
        x, y = _mean(figures, model, "head_items"), _mean(figures, model, "tail_items")
        ax.errorbar(
            x, y, xerr=_sd(figures, model, "head_items"), yerr=_sd(figures, model, "tail_items"), fmt="o",
            color=f"C{at}" if at < 10 else "grey",
        )  # fmt: skip
        ax.annotate(model, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6)
    ax.set(title="NDCG@20", xlabel=NAMES["head_items"], ylabel=NAMES["tail_items"])
    _from_zero(ax)


def _time(ax: Any, figures: Figures) -> None:
    for at, model in enumerate(figures.models):
        seconds = figures.mean(model, OVERALL, "seconds")
        if seconds is None:
            continue
        x, y = max(seconds, 1e-3), _mean(figures, model, OVERALL)
        ax.plot(x, y, "o", color=f"C{at}" if at < 10 else "grey")
        ax.annotate(model, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6)
    ax.set_xscale("log")
    ax.set(title="Quality and what it costs", xlabel="fit, seconds", ylabel="NDCG@20")
    _from_zero(ax, x=False)


def _new_users(ax: Any, figures: Figures) -> None:
    there = [n for n in USER_EVENTS if f"user_events_{n}" in figures.slices]
    for at, model in enumerate(figures.models):
        values = [_mean(figures, model, f"user_events_{n}") for n in there]
        ax.plot(there, values, "o-" if at < 10 else "s--", color=f"C{at % 10}", label=model, markersize=3, linewidth=1)
    ax.set_xticks(there)
    ax.set(title="New users", xlabel="events at ranking time", ylabel="NDCG@20")
    _from_zero(ax, x=False)
    if there:
        ax.legend(fontsize=6, ncols=2)
    else:
        ax.text(0.5, 0.5, "none is asked here", ha="center", transform=ax.transAxes)


def _from_zero(ax: Any, x: bool = True) -> None:
    """Axes that begin at 0 do not make small differences large."""
    ax.set_ylim(bottom=0)
    if x:
        ax.set_xlim(left=0)


def _mean(figures: Figures, model: str, slice_: str) -> float:
    return figures.mean(model, slice_, JUDGED) or 0.0


def _sd(figures: Figures, model: str, slice_: str) -> float:
    row = figures.row(model, slice_, JUDGED)
    return (row["sd"] or 0.0) if row else 0.0
