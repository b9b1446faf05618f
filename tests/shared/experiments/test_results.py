import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.experiments import plots
from shared.experiments.cache import Outcome
from shared.experiments.config import Experiment, Row
from shared.experiments.document import BEGIN, EMPTY, END, by_hand, figure, render
from shared.experiments.experiment import Measured
from shared.experiments.plots import MAX_BYTES, draw
from shared.experiments.results import METRICS, Results, references, results_of
from shared.experiments.slices import Slices

DOCS = Path(__file__).parents[3] / "docs"
USERS = [f"u{n // 2}" for n in range(40)]
HEAD = np.arange(40) < 10


def outcome(quality: float, seed: int, cut_short: bool = False) -> Outcome:
    """Every metric of target t is quality + something of the target and the seed."""
    rng = np.random.default_rng(seed)
    targets = quality + 0.01 * np.arange(40)[:, None] / 40 + 0.002 * rng.random((40, 1)) + np.zeros((1, len(METRICS)))
    costs = {"seconds": 2.0 * seed, "peak_mib": 12.0, "parameters": 1000.0, "coverage@10": 0.5}
    return Outcome(targets.astype(np.float32), METRICS, costs, "2026-11-20", "a machine", cut_short, {"epochs": seed})


def row(label: str, kind: str, against: str | None = None) -> Row:
    return Row(label, kind, {}, kind not in ("finerec", "finestream"), against)


def measured(name: str = "small") -> Measured:
    rows = (
        row("popularity", "popularity"),
        row("sasrec", "sasrec"),
        row("ours", "finestream"),
        row("bare | ours", "finestream", "ours"),
    )
    experiment = Experiment(name, "Small", "A note.", 3, {"name": "made-up", "interactions": "x"}, Path(), rows)
    slices = Slices(
        USERS, {"overall": np.ones(40, np.bool_), "head_items": HEAD, "tail_items": ~HEAD, "user_events_1": HEAD}
    )
    return Measured(
        experiment, slices, {"users": 20, "none": float("nan")}, "time",
        {
            "popularity": [outcome(0.1, 1)],
            "sasrec": [outcome(0.2, seed) for seed in (1, 2, 3)],
            "ours": [outcome(0.3, seed) for seed in (1, 2, 3)],
            "bare | ours": [outcome(0.3, seed, cut_short=seed == 2) for seed in (1, 2, 3)],
        },
    )  # fmt: skip


def test_rows_have_exactly_what_the_document_says_and_survive_a_file(tmp_path: Path) -> None:
    found = results_of(measured())
    found.write(tmp_path / "r.json")
    assert Results.read(tmp_path / "r.json") == found
    assert {tuple(row) for row in json.loads((tmp_path / "r.json").read_text())["rows"]} == {
        ("experiment", "dataset", "protocol", "model", "slice", "metric", "mean", "sd", "seeds")
    }


def test_a_figure_is_the_mean_over_the_targets_of_its_slice_and_its_deviation_is_over_seeds() -> None:
    figures = results_of(measured()).of("small")
    for slice_, kept in (("overall", np.ones(40, np.bool_)), ("tail_items", ~HEAD)):
        per_seed = [outcome(0.2, seed).targets[kept, 0].mean(dtype=np.float64) for seed in (1, 2, 3)]
        found = figures.row("sasrec", slice_, "ndcg@20")
        assert found is not None
        assert found["mean"] == pytest.approx(np.mean(per_seed), rel=1e-5)
        assert found["sd"] == pytest.approx(np.std(per_seed, ddof=1), rel=1e-3)
        assert found["seeds"] == 3
    assert figures.mean("sasrec", "overall", "seconds") == 4.0
    assert figures.mean("sasrec", "tail_items", "targets") == 30
    alone = figures.row("popularity", "overall", "mrr")
    assert alone is not None
    assert (alone["sd"], alone["seeds"]) == (None, 1)


def test_live_slices_are_of_the_live_figures_and_of_servable_models_only() -> None:
    of = measured()
    of.slices.of["live_overall"] = np.ones(40, np.bool_)
    of.outcomes["ours"] = [
        replace(
            found,
            targets=np.concatenate([found.targets, found.targets + 0.5], 1),
            metrics=(*METRICS, *(f"live_{name}" for name in METRICS)),
        )
        for found in of.outcomes["ours"]
    ]
    results = results_of(of)
    batch, live = (results.of("small").mean("ours", slice_, "mrr") or 0 for slice_ in ("overall", "live_overall"))
    assert live == pytest.approx(batch + 0.5, abs=1e-5)
    assert results.of("small").row("sasrec", "live_overall", "mrr") is None
    _, as_served = render(results, EMPTY, {}).split("As served:")
    table = as_served.split("\n\n")[1]
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| ours"]


def test_each_row_is_compared_with_the_best_baseline_or_with_the_row_it_names() -> None:
    assert references(measured()) == {"popularity": "sasrec", "ours": "sasrec", "bare | ours": "ours"}


def test_comparisons_are_corrected_over_the_table() -> None:
    figures = results_of(measured()).of("small")
    assert figures.mean("ours", "overall", "ndcg@20 difference") == pytest.approx(0.1, abs=1e-4)
    assert figures.mean("bare | ours", "overall", "p") == 1.0
    raw, corrected = (figures.mean("ours", "overall", name) for name in ("p", "p, corrected"))
    assert raw == pytest.approx(1e-4, rel=0.01)
    assert corrected == pytest.approx(3e-4, rel=0.01)
    assert figures.row("sasrec", "overall", "p") is None


def test_an_update_touches_its_own_experiments_only() -> None:
    first, second = results_of(measured("one")), results_of(measured("two"))
    both = first.updated(second)
    assert [run["experiment"] for run in both.runs] == ["one", "two"]
    again = measured("one")
    del again.outcomes["popularity"]
    got = both.updated(results_of(again))
    assert got.of("two").models == both.of("two").models
    assert [row for row in got.rows if row["experiment"] == "two"] == second.rows
    assert "popularity" not in got.of("one").models
    assert [run["experiment"] for run in got.runs] == ["one", "two"]


def test_a_file_that_is_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no results"):
        Results.read(tmp_path / "r.json")


def test_every_figure_of_the_tables_is_in_the_rows() -> None:
    found = results_of(measured())
    document = render(found, EMPTY, {})
    means = {figure(row["mean"]) for row in found.rows if row["metric"] in METRICS}
    cells = [
        cell.strip(" *") for line in document.splitlines() if line.startswith("| ours") for cell in line.split("|")
    ]
    shown = {cell.split(" ± ")[0] for cell in cells if cell.startswith(".")}
    assert len(shown) >= 4
    assert shown - {".500"} <= means  # .500 is the coverage


def test_the_best_of_a_column_is_bold_and_names_cannot_break_the_table() -> None:
    document = render(results_of(measured()), EMPTY, {})
    lines = [line for line in document.splitlines() if line.startswith("| bare \\| ours | 3 |")]
    assert len(lines) == 1
    assert "**" in lines[0]
    assert not [line for line in document.splitlines() if line.startswith("| sasrec") and "**" in line]


def test_what_was_not_measured_or_was_cut_short_is_told() -> None:
    of = measured()
    of.failed["gru4rec"] = "no memory"
    document = render(results_of(of), EMPTY, {})
    assert "Not measured: gru4rec (no memory)." in document
    assert "Training was cut short by time: bare | ours." in document
    assert "2026-11-20 on a machine" in document
    assert "Chosen on validation: popularity epochs 1; sasrec epochs 1 / 2 / 3; ours" in document


def test_what_is_by_hand_is_kept_to_the_letter() -> None:
    words = "\n## What falls short\n\nEverything, $1 and \\1.\n"
    document = render(results_of(measured()), words, {"small": "plots/small.svg"})
    assert by_hand(document) == words
    assert render(results_of(measured()), by_hand(document), {"small": "plots/small.svg"}) == document
    assert "![Small](plots/small.svg)" in document
    assert by_hand("") == EMPTY
    assert document.count(BEGIN) == document.count(END) == 1


def test_plots_are_small_and_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = results_of(measured())
    (one,), (other,) = draw(found, ["small"], tmp_path / "a"), draw(found, ["small"], tmp_path / "b")
    assert one.name == "small.svg"
    assert one.read_bytes() == other.read_bytes()
    assert 5_000 < one.stat().st_size < MAX_BYTES


def test_of_many_models_the_differences_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(plots, "MANY", 3)
    (one,) = draw(results_of(measured()), ["small"], tmp_path)
    told = one.read_text()
    assert "less that of the whole model" in told
    assert all(label in told for label in ("popularity", "ours", "bare | ours"))
    assert ">sasrec<" not in told  # the one that others are compared with


def test_the_checked_in_document_is_what_its_rows_give() -> None:
    if not (DOCS / "results.json").exists():
        pytest.skip("docs/results.json is not there yet: finestream evaluate writes it")
    document = (DOCS / "results.md").read_text()
    results = Results.read(DOCS / "results.json")
    names = [run["experiment"] for run in results.runs]
    plots = {name: f"plots/{name}.svg" for name in names if (DOCS / "plots" / f"{name}.svg").exists()}
    assert render(results, by_hand(document), plots) == document
