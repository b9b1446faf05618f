"""docs/results.md from docs/results.json: tables and words, and a section by hand that is kept as it is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from shared.experiments.results import JUDGED, METRICS, Figures, Results
from shared.experiments.slices import GROUPS, LIVE, NOT_MET, OVERALL
from shared.experiments.statistics import DRAWS

BEGIN: Final = "<!-- by hand: the command keeps what is between this line and the next marker -->"
END: Final = "<!-- end of what is by hand -->"
EMPTY: Final = "\n## What falls short\n\nNot written yet.\n"

PROTOCOLS: Final[Mapping[str, str]] = {
    "time": (
        "One moment parts training from test for everybody. A case is a user at a time, its history what is strictly "
        "earlier (events of one time never see each other), in the test period too; the catalogue and its counts are "
        "as of the split. The whole catalogue is ranked, items of the history are masked, a target that was not known "
        "at the split is a miss. Asked are users with a history before the split; the others are slices of their own. "
        "What is chosen (epochs first of all) is chosen on the last tenth of the training events, then the model is "
        "fitted again on all of them."
    ),
    "leave_one_out": (
        "Of every user the last event is the test, the one before it validation, the rest training: what other users "
        "did later is known, so this is an extra, for comparing with papers. The whole catalogue is ranked, items of "
        "the history are masked."
    ),
    "sampled": (
        "The LLM-ESR paper's: of every user the last event is the test, the one before it validation, and a target is "
        "ranked among 100 random items that the user never met. Nothing is masked, so a target may be an item of the "
        "history; `not met before` leaves those out. An extra, for comparing with the paper."
    ),
}
NAMES: Final[Mapping[str, str]] = {
    OVERALL: "overall",
    "head_items": "head items",
    "tail_items": "tail items",
    "head_users": "head users",
    "tail_users": "tail users",
    NOT_MET: "not met before",
    **{f"user_events_{n}": f"users with {n}" for n in range(4)},
    **{f"item_events_{n}": f"items with {n}" for n in range(3)},
    f"{LIVE}{OVERALL}": "overall",
    f"{LIVE}tail_items": "tail items",
    **{f"{LIVE}item_events_{n}": f"items with {n}" for n in range(3)},
}
AS_SERVED: Final = (
    "As served: the weights stay, the item table follows the stream through the test, as of the start of each of at "
    "most 50 windows. `items with n`: n users had met the item by then, whoever is asked."
)
COST_COLUMNS: Final[Sequence[tuple[str, str, Callable[[float], str]]]] = (
    ("coverage@10", "coverage@10", lambda v: figure(v, 3)),
    ("gini@10", "Gini@10", lambda v: figure(v, 3)),
    ("epochs", "epochs", lambda v: f"{v:.0f}"),
    ("choosing_seconds", "choosing, s", lambda v: f"{v:,.1f}"),
    ("seconds", "fit, s", lambda v: f"{v:,.1f}"),
    ("samples", "targets learnt from", lambda v: f"{v:,.0f}"),
    ("peak_mib", "peak memory, MiB", lambda v: f"{v:,.0f}"),
    ("device_peak_mib", "GPU, MiB", lambda v: f"{v:,.0f}"),
    ("parameters", "parameters", lambda v: f"{v:,.0f}"),
)
INTRO: Final = f"""# Results

Written by `finestream evaluate` from results.json; only the section between the markers is by hand. A figure is the
mean over targets, ± the standard deviation over seeds (as many as there are fits; models without randomness are fitted
once). Targets that tie with other items are counted in expectation. **Bold**: the highest mean of a column.

Compared is NDCG@20 of each target, averaged over seeds, with the best baseline or with the row that is named: the
difference and its 95 % interval (percentiles of a paired bootstrap over users, {DRAWS:,} draws, fixed seed), and p,
two-sided, from the same draws moved to a mean of 0, corrected over the table (Holm). They tell the luck of who was
asked; the luck of the seed is the ±. The best baseline was found on the test, which favours it.

Head items are the fifth of the catalogue with the most training users, head users the fifth of the training users with
the most events; tail is all the rest. `users with n`: n events at ranking time, users first met in the test among them.
`items with n`: n training users; an item that nothing was known of is a miss for every model.

Fit is the seconds of the fit that was asked, choosing those of the fit on validation before it (one and the same where
the protocol has no second). Peak memory is how much the fit's own process grew from before the first fit to the end of
the last; data and libraries are not counted.
"""


def render(results: Results, by_hand: str, plots: Mapping[str, str]) -> str:
    """The document. `plots`: experiment -> path of its plot from the document's folder, for those that have one."""
    sections = [section(run, results.of(run["experiment"]), plots.get(run["experiment"])) for run in results.runs]
    return "\n".join([INTRO, BEGIN + by_hand + END, "", *sections])


def by_hand(document: str) -> str:
    """What is between the markers; an empty section where there are none."""
    _, begin, rest = document.partition(BEGIN)
    kept, end, _ = rest.partition(END)
    return kept if begin and end else EMPTY


def section(run: Mapping[str, Any], figures: Figures, plot: str | None) -> str:
    parts = [f"## {run['title']}", PROTOCOLS[run["protocol"]]]
    if run["note"]:
        parts.append(run["note"])
    parts += [_sizes(run), main_table(run, figures), _slices(run, figures), cost_table(figures)]
    if chosen := _chosen(run):
        parts.append(f"Chosen on validation: {chosen}.")
    if run["failed"]:
        parts.append("Not measured: " + "; ".join(f"{label} ({why})" for label, why in run["failed"].items()) + ".")
    if run["cut_short"]:
        parts.append(f"Training was cut short by time: {', '.join(run['cut_short'])}.")
    if plot:
        parts.append(f"![{run['title']}]({plot})")
    return "\n\n".join(parts) + "\n"


def main_table(run: Mapping[str, Any], figures: Figures) -> str:
    """Model by metric, and the comparison."""
    head = ["model", "fits", *(_title(metric) for metric in METRICS), "compared with", "NDCG@20 difference", "p"]
    lines = []
    for model in figures.models:
        fits = figures.row(model, OVERALL, JUDGED)
        assert fits is not None
        cells = [_cell(figures, model, OVERALL, metric) for metric in METRICS]
        lines.append([model, str(fits["seeds"]), *cells, *_comparison(run, figures, model)])
    return table(head, lines)


def slice_table(
    figures: Figures, targets: Mapping[str, int], names: Sequence[str], metric: str, models: Sequence[str] | None = None
) -> str:
    """Model by slice, of one metric; the number of targets of a slice is beside its name."""
    head = [_title(metric), *(f"{NAMES[name]} ({targets[name]:,})" for name in names)]
    rows = figures.models if models is None else models
    return table(head, [[m, *(_cell(figures, m, name, metric) for name in names)] for m in rows])


def cost_table(figures: Figures) -> str:
    """What a model costs, and how much of the catalogue its lists hold."""
    columns = [c for c in COST_COLUMNS if any(figures.row(m, OVERALL, c[0]) for m in figures.models)]
    lines = []
    for model in figures.models:
        values = [figures.mean(model, OVERALL, metric) for metric, _, _ in columns]
        shown = [show(v) if v is not None else "" for v, (_, _, show) in zip(values, columns, strict=True)]
        lines.append([model, *shown])
    return table(["model", *(name for _, name, _ in columns)], lines)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown; all columns but the first to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in (head, rule, *lines))


def figure(value: float, digits: int = 4) -> str:
    """.0734, as papers write a share."""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _slices(run: Mapping[str, Any], figures: Figures) -> str:
    shown = ("hr@10", "ndcg@10") if run["protocol"] == "sampled" else (JUDGED,)  # what the paper tells
    targets = run["targets"]
    groups = [name for name in (OVERALL, *GROUPS, NOT_MET) if name in targets]
    new = [name for name in NAMES if name.startswith(("user_events", "item_events")) and name in targets]
    live = [name for name in NAMES if name.startswith(LIVE) and name in targets]
    parts = [slice_table(figures, targets, names, metric) for names in (groups, new) if names for metric in shown]
    served = [model for model in figures.models if figures.row(model, LIVE + OVERALL, JUDGED)]
    if live and served:
        parts += [AS_SERVED, slice_table(figures, targets, live, JUDGED, served)]
    return "\n\n".join(parts)


def _sizes(run: Mapping[str, Any]) -> str:
    sizes = "; ".join(f"{name.replace('_', ' ')} {value:,.6g}" for name, value in run["figures"].items())
    return f"{sizes}. Measured up to {run['measured']} on {' and '.join(run['machine'])}."


def _chosen(run: Mapping[str, Any]) -> str:
    """What each model chose, the fits apart by slashes."""
    told = []
    for label, fits in run["chosen"].items():
        names = dict.fromkeys(name for chosen in fits for name in chosen)
        values = [f"{name} {' / '.join(_plain(chosen.get(name, '')) for chosen in fits)}" for name in names]
        if values:
            told.append(f"{label} {', '.join(values)}".replace("_", " "))
    return "; ".join(told)


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _comparison(run: Mapping[str, Any], figures: Figures, model: str) -> list[str]:
    found = {
        name: figures.mean(model, OVERALL, metric)
        for name, metric in (
            ("difference", f"{JUDGED} difference"), ("low", f"{JUDGED} difference, low"),
            ("high", f"{JUDGED} difference, high"), ("p", "p, corrected"),
        )
    }  # fmt: skip
    if any(value is None for value in found.values()):
        return ["", "", ""]
    d, low, high, p = (float(value or 0.0) for value in found.values())
    return [run["against"][model], f"{d:+.4f} [{low:+.4f}, {high:+.4f}]", f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"]


def _cell(figures: Figures, model: str, slice_: str, metric: str) -> str:
    row = figures.row(model, slice_, metric)
    if row is None:
        return ""
    text = figure(row["mean"])
    if row["sd"] is not None:
        text += f" ± {figure(row['sd'])}"
    return f"**{text}**" if row["mean"] == figures.best(slice_, metric) and row["mean"] > 0 else text


def _title(metric: str) -> str:
    return metric.upper()


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
