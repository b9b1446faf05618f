"""`finestream evaluate` from a small file to its documents, and what it says to wrong arguments."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shared.cli.main import app
from shared.experiments.document import BEGIN, by_hand, figure, render
from shared.experiments.results import Results
from tests.shared.experiments.small import TWO_MODELS, run_here, write_config, write_log

runner = CliRunner()


def call(folder: Path, *arguments: str) -> tuple[int, str]:
    told = [
        "evaluate", *arguments, "--data", str(folder), "--out", str(folder / "docs/r.md"),
        "--json", str(folder / "docs/r.json"), "--plots", str(folder / "docs/plots"),
        "--cache", str(folder / "cache"), "--workers", "2",
    ]  # fmt: skip
    done = runner.invoke(app, told)
    return done.exit_code, done.stderr


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.experiments.experiment._run", run_here)


def test_from_a_file_to_document_rows_and_plot(tmp_path: Path) -> None:
    config = write_config(write_log(tmp_path) / "small.toml")
    code, _ = call(tmp_path, str(config))
    assert code == 0
    results = Results.read(tmp_path / "docs/r.json")
    figures = results.of("small")
    assert figures.models == ["popularity", "item_knn"]
    document = (tmp_path / "docs/r.md").read_text()
    knn = figures.mean("item_knn", "overall", "ndcg@20")
    assert knn is not None
    assert knn > (figures.mean("popularity", "overall", "ndcg@20") or 0)  # users have tastes
    assert f"**{figure(knn)}**" in document
    assert "![Made up](plots/small.svg)" in document
    assert (tmp_path / "docs/plots/small.svg").stat().st_size < 100_000

    # By hand stays, another config's section comes behind, and what is kept is not fitted again.
    (tmp_path / "docs/r.md").write_text(document.replace("Not written yet.", "Beauty falls short."))
    other = write_config(tmp_path / "other.toml", head='title = "The other"\n')
    code, said = call(tmp_path, str(other))
    assert code == 0
    assert "0 fits to do, 2 kept from before" in said
    document = (tmp_path / "docs/r.md").read_text()
    assert "Beauty falls short." in by_hand(document)
    assert document.index("## Made up") < document.index("## The other")
    assert Results.read(tmp_path / "docs/r.json").of("small").models == figures.models

    # Without configs the document is drawn from the rows again, to the letter.
    (tmp_path / "docs/r.md").write_text(document[document.index(BEGIN) :])
    assert call(tmp_path)[0] == 0
    assert (tmp_path / "docs/r.md").read_text() == document
    again = Results.read(tmp_path / "docs/r.json")
    plots = {name: f"plots/{name}.svg" for name in ("small", "other")}
    assert render(again, by_hand(document), plots) == document


@pytest.mark.usefixtures("here")
def test_a_row_that_fails_is_told_and_the_rest_is_written(tmp_path: Path) -> None:
    models = '[[model]]\nkind = "popularity"\n[[model]]\nkind = "sasrec"\nd = 7\nheads = 2\n'
    config = write_config(write_log(tmp_path) / "small.toml", models)
    code, said = call(tmp_path, str(config))
    assert code == 1
    assert "small: sasrec, seed 1: failed" in said
    assert "Not measured: sasrec" in (tmp_path / "docs/r.md").read_text()
    assert json.loads((tmp_path / "docs/r.json").read_text())["rows"]


@pytest.mark.usefixtures("here")
def test_a_table_is_not_written_while_rows_are_missing(tmp_path: Path) -> None:
    config = write_config(write_log(tmp_path) / "small.toml")
    code, said = call(tmp_path, str(config), "--only", "popularity")
    assert code == 0
    assert "small is not written: not fitted yet are item_knn" in said
    assert not (tmp_path / "docs/r.md").exists()


@pytest.mark.parametrize(
    ("models", "arguments", "says"),
    [
        ('[[model]]\nkind = "oracle"\n', [], "there is no model 'oracle'"),
        ('[[model]]\nkind = "sasrec"\nwidth = 3\n', [], "there is no width"),
        (TWO_MODELS, ["--only", "nobody"], "--only 'nobody': there is no such label; there are item_knn, popularity"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(tmp_path: Path, models: str, arguments: list[str], says: str) -> None:
    config = write_config(write_log(tmp_path) / "small.toml", models)
    code, said = call(tmp_path, str(config), *arguments)
    assert code == 2
    assert says in said
    assert len(said.strip().splitlines()) == 1


def test_data_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    code, said = call(tmp_path, str(write_config(tmp_path / "small.toml")))
    assert code == 1
    assert "log.txt" in said
    assert len(said.strip().splitlines()) == 1


def test_a_config_that_is_not_there_is_told_what_there_is(tmp_path: Path) -> None:
    code, said = call(tmp_path, "musical_instrument")
    assert code == 2
    assert "neither a file nor one of ablations, beauty," in said


def test_evaluate_diversity_writes_table_rows_and_plot(tmp_path: Path) -> None:
    models = '[[model]]\nkind = "popularity"\n'
    config = write_config(write_log(tmp_path) / "small.toml", models)
    told = [
        "evaluate-diversity", str(config), "--data", str(tmp_path), "--model", "popularity", "--pool", "15",
        "--json", str(tmp_path / "docs/d.json"), "--out", str(tmp_path / "docs/d.md"),
        "--plot", str(tmp_path / "docs/plots/d.svg"),
    ]  # fmt: skip
    done = runner.invoke(app, told)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "docs/d.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["none", *["mmr"] * 10, *["dpp"] * 10]
    document = (tmp_path / "docs/d.md").read_text()
    assert "| mmr | 0.5 |" in document
    assert "![Made up](plots/d.svg)" in document
    assert (tmp_path / "docs/plots/d.svg").stat().st_size < 100_000
    wrong = runner.invoke(app, [*told, "--model", "x"])
    assert wrong.exit_code == 2
    assert "there is no model 'x'" in wrong.output
