"""One drawing an experiment, from its rows: quality, head against tail, quality against time, new users. Of more
models than eyes tell apart (ablations), it is what each differs by from the one that it is compared with.

matplotlib is a development dependency: without it there are no plots, and whoever asks is told.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shared.experiments.document import NAMES
from shared.experiments.results import JUDGED, Figures, Results
from shared.experiments.slices import OVERALL, USER_EVENTS

if TYPE_CHECKING:
    from shared.experiments.diversity import Row

MAX_BYTES: Final = 100_000
MANY: Final = 16
ENDS: Final = ("", ", low", ", high")


class NoPlots(Exception):
    """matplotlib is not installed."""


def draw(results: Results, experiments: list[str], folder: Path) -> list[Path]:
    """Write <experiment>.svg for each into `folder`. The same rows give the same bytes. Raises NoPlots."""
    paths = []
    with _drawing() as figure:
        for run in results.runs:
            if run["experiment"] not in experiments:
                continue
            drawn = figure(figsize=(11, 8), layout="constrained")
            drawn.suptitle(run["title"])
            figures = results.of(run["experiment"])
            if len(figures.models) > MANY:
                _differences(drawn.subplots(), figures, run["against"])
            else:
                _fill(drawn, figures)
            path = folder / f"{run['experiment']}.svg"
            _save(drawn, path)
            paths.append(path)
    return paths


def draw_diversity(rows: "Sequence[Row]", title: str, path: Path) -> None:
    """Intra-list diversity and coverage against NDCG@10, a line a method from no diversity on. Raises NoPlots."""
    with _drawing() as figure:
        drawn = figure(figsize=(11, 4), layout="constrained")
        drawn.suptitle(title)
        unlike, covered = drawn.subplots(1, 2)
        for method in dict.fromkeys(row.method for row in rows if row.strength):
            along = [row for row in rows if row.method == method or not row.strength]
            gains = [row.ndcg for row in along]
            unlike.plot([row.unlike for row in along], gains, "o-", markersize=3, linewidth=1, label=method.upper())
            covered.plot([row.coverage for row in along], gains, "o-", markersize=3, linewidth=1)
        unlike.set(xlabel="intra-list diversity", ylabel="NDCG@10")
        covered.set(xlabel="share of the catalogue in some list of 10", ylabel="NDCG@10")
        for ax in (unlike, covered):
            ax.set_ylim(bottom=0)
        unlike.legend()
        _save(drawn, path)


@contextmanager
def _drawing() -> Iterator[Any]:
    """matplotlib's Figure, in a context where the same rows give the same bytes. Raises NoPlots."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise NoPlots("no plots: matplotlib is not installed (pip install -e '.[dev]')") from None
    with mpl.rc_context({"svg.hashsalt": "finestream", "svg.fonttype": "none", "font.size": 8}):
        yield Figure


def _save(drawn: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, metadata={"Date": None})
    path.write_text(re.sub(r"[ \t]+$", "", path.read_text(), flags=re.M))


def _fill(drawn: Any, figures: Figures) -> None:
    axes = drawn.subplots(2, 2)
    _bars(axes[0, 0], figures)
    _head_and_tail(axes[0, 1], figures)
    _time(axes[1, 0], figures)
    _new_users(axes[1, 1], figures)
    drawn.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside right upper")


def _differences(ax: Any, figures: Figures, against: Mapping[str, str]) -> None:
    models = [model for model in figures.models if model in against][::-1]
    for at, model in enumerate(models):
        middle, low, high = (figures.mean(model, OVERALL, f"{JUDGED} difference{end}") for end in ENDS)
        if middle is not None and low is not None and high is not None:
            told = [[max(0.0, middle - low)], [max(0.0, high - middle)]]
            ax.errorbar(middle, at, xerr=told, fmt="o", color=_colour(list(against.values()).index(against[model])))
    ax.set_yticks(range(len(models)), models)
    ax.axvline(0, color="grey", linewidth=0.5)
    ax.set_title("NDCG@20 less that of the whole model, and its 95 % interval over users")


def _bars(ax: Any, figures: Figures) -> None:
    models = figures.models[::-1]
    colours = [_colour(at) for at in range(len(models))][::-1]
    deviations = [_sd(figures, m, OVERALL) for m in models]
    ax.barh(models, [_mean(figures, m, OVERALL) for m in models], xerr=deviations, color=colours)
    ax.set_title("NDCG@20, ± deviation over seeds")


def _head_and_tail(ax: Any, figures: Figures) -> None:
    for at, model in enumerate(figures.models):
        x, y = _mean(figures, model, "head_items"), _mean(figures, model, "tail_items")
        deviations = {"xerr": _sd(figures, model, "head_items"), "yerr": _sd(figures, model, "tail_items")}
        ax.errorbar(x, y, **deviations, fmt="o", color=_colour(at), label=model)
    ax.set(title="NDCG@20", xlabel=NAMES["head_items"], ylabel=NAMES["tail_items"])
    _from_zero(ax)


def _time(ax: Any, figures: Figures) -> None:
    for at, model in enumerate(figures.models):
        seconds = figures.mean(model, OVERALL, "seconds")
        if seconds is not None:
            ax.plot(max(seconds, 1e-3), _mean(figures, model, OVERALL), "o", color=_colour(at))
    ax.set_xscale("log")
    ax.set(title="Quality and what it costs", xlabel="fit, seconds", ylabel="NDCG@20")
    _from_zero(ax, x=False)


def _new_users(ax: Any, figures: Figures) -> None:
    there = [n for n in USER_EVENTS if f"user_events_{n}" in figures.slices]
    for at, model in enumerate(figures.models):
        values = [_mean(figures, model, f"user_events_{n}") for n in there]
        ax.plot(there, values, "o-", color=_colour(at), markersize=3, linewidth=1)
    ax.set_xticks(there)
    ax.set(title="New users", xlabel="events at ranking time", ylabel="NDCG@20")
    _from_zero(ax, x=False)
    if not there:
        ax.text(0.5, 0.5, "none is asked here", ha="center", transform=ax.transAxes)


def _colour(at: int) -> tuple[float, float, float, float]:
    """The same for a model in every panel."""
    from matplotlib import colormaps

    found: tuple[float, float, float, float] = colormaps["tab20"](at % 20)
    return found


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
