"""`finestream bench`: what is listed, run, told and written, with benchmarks that measure nothing."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from services.ranking.codes import Codes
from services.ranking.job import Pick
from shared.cli import bench
from shared.cli.main import app
from shared.graph.state import MAX_INTERACTIONS, MAX_PAIRS_PER_REVIEW, MAX_REVIEWS
from shared.models.contract import ItemTable
from tests.bench import alone, backlog, flat, freshness, report, running, state_size, topk
from tests.bench.figure import Figure, figure

SHIPPED = {"quick": "a made-up rate", "broken": "nothing, it fails", "slow": "a made-up time"}


def quick() -> list[Figure]:
    return [figure("quick", "made-up events/s", 3000.0, 1000.0, "events/s", goal=1.5, parts={"CPU µs": 12.5})]


def broken() -> list[Figure]:
    raise RuntimeError("no figures today")


def slow() -> list[Figure]:
    return [figure("slow", "made-up ms", 8.0, 4.0, "ms", goal=1.5, less_is_better=True)]


def call(*arguments: str) -> int:
    made_up = {"quick": quick, "broken": broken, "slow": slow}
    return running.main(arguments, SHIPPED, made_up.__getitem__)


def doubled(value: float) -> dict[str, float]:
    return {alone.RATE: 2 * value}


def test_without_a_name_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in listed] == [[name, what] for name, what in SHIPPED.items()]


def test_an_unknown_name_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("quick", "nope") == 2
    said = capsys.readouterr()
    assert said.err == "finestream: there is no benchmark 'nope'; there are quick, broken, slow\n"
    assert not said.out


def test_figures_are_written_with_all_their_fields(tmp_path: Path) -> None:
    out = tmp_path / "new/figures.json"
    assert call("quick", "slow", "--json", str(out)) == 0
    written = json.loads(out.read_text())
    assert [row["name"] for row in written] == ["quick", "slow"]
    assert all(set(row) == set(Figure.__struct_fields__) for row in written)
    assert {name: written[0][name] for name in ("ours", "baseline", "unit", "ratio", "goal", "parts")} == {
        "ours": 3000.0, "baseline": 1000.0, "unit": "events/s", "ratio": 3.0, "goal": 1.5, "parts": {"CPU µs": 12.5}
    }  # fmt: skip
    assert all(written[0][name] for name in ("what", "hardware", "python", "date"))


def test_the_ratio_says_how_many_times_better_ours_is() -> None:
    assert quick()[0].ratio == 3.0
    assert slow()[0].ratio == 0.5
    assert figure("free", "no goal", 1.0, 1.0, "s").verdict == ""


def test_a_goal_that_is_not_reached_is_told_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("slow", "quick") == 0
    told = capsys.readouterr().out
    assert "slow: ours 8 ms, baseline 4 ms, ratio 0.50, below its goal 1.5" in told
    assert "quick: ours 3,000 events/s, baseline 1,000 events/s, ratio 3.00, reaches its goal 1.5" in told


def test_one_that_fails_is_exit_code_1_and_the_others_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    assert call("all", "--json", str(out)) == 1
    assert [row["name"] for row in json.loads(out.read_text())] == ["quick", "slow"]
    said = capsys.readouterr().err
    assert "no figures today" in said
    assert said.endswith("finestream: not measured, see above: broken\n")


def test_a_terminal_gets_a_table() -> None:
    console = Console(force_terminal=True, width=120, record=True)
    report.show([*quick(), *slow()], console)
    drawn = console.export_text()
    assert "┃ benchmark" in drawn
    assert "below its goal 1.5" in drawn
    assert "  CPU µs: 12.5" in drawn


def test_every_shipped_benchmark_has_its_file() -> None:
    assert all(find_spec(f"tests.bench.{name}") for name in running.SHIPPED)


def test_a_contender_runs_in_a_process_of_its_own() -> None:
    assert alone.alone(doubled, 2.0) == {alone.RATE: 4.0}


def test_of_several_runs_the_fastest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([1.0, 10.0, 3.0, 20.0])
    monkeypatch.setattr(alone, "alone", lambda _function, *_arguments: {alone.RATE: next(rates)})
    assert alone.best({"a": (doubled, 0.0), "b": (doubled, 0.0)}) == {"a": {alone.RATE: 3.0}, "b": {alone.RATE: 20.0}}


def test_the_trainer_reads_the_archive_that_the_benchmark_writes(tmp_path: Path) -> None:
    backlog.write_archive(str(tmp_path), 100)
    readings = (backlog.trainer, backlog.decoded, backlog.rows)
    assert all(reading(str(tmp_path), 100)[alone.RATE] > 0 for reading in readings)


async def test_the_cost_of_an_event_is_of_a_filled_graph_with_all_and_with_nothing_in_memory(tmp_path: Path) -> None:
    meters = {flat.WARM: flat.Meter(), flat.COLD: flat.Meter()}
    await flat.measured(tmp_path, 40, 20, 40, meters)
    warm, cold = (meters[name].numbers() for name in (flat.WARM, flat.COLD))
    assert all(numbers[flat.COST] > 0 for numbers in (warm, cold))
    assert (warm[flat.IN_MEMORY], cold[flat.IN_MEMORY]) == (1.0, 0.0)


def test_a_probe_that_nobody_waited_for_counts_as_its_deadline() -> None:
    delays = freshness.with_late({"interaction": [0.2, 0.1], "review": [0.3]}, {"review": 1})
    assert delays == {
        "interaction": [0.1, 0.2],
        "review": [0.3, freshness.DEADLINE_SECONDS],
        freshness.OVER_ALL: [0.1, 0.2, 0.3, freshness.DEADLINE_SECONDS],
    }


def test_a_state_at_its_bounds_has_at_most_32_kib_where_ids_are_uuids() -> None:
    user = state_size.bounded(36)
    assert state_size.size(user) <= state_size.BOUND
    assert (len(user.interactions), len(user.reviews)) == (MAX_INTERACTIONS, MAX_REVIEWS)
    assert all(len(slot.pairs) == MAX_PAIRS_PER_REVIEW for slot in user.reviews)
    assert all(len(slot.other_id) == 36 for slot in user.reviews)


def test_an_answer_of_topk_that_is_not_exact_is_no_figure() -> None:
    numbers = torch.Generator().manual_seed(1)
    table = ItemTable([str(row) for row in range(9000)], torch.randn(9000, 8, generator=numbers), torch.zeros(9000))
    codes, users = Codes(8), torch.randn(2, 8, generator=numbers)
    codes.follow(table, torch.arange(9000))
    found = topk.ours(table, codes)(users)
    topk.check(found, users, table)
    other = next(row for row in range(9000) if row not in {pick.row for pick in found[0]})
    found[0][50] = Pick(other, found[0][50].score)
    with pytest.raises(AssertionError):
        topk.check(found, users, table)


def test_an_installation_without_benchmarks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    shown = CliRunner().invoke(app, ["bench", "intake"])
    assert shown.exit_code == 2
    assert shown.stderr.startswith("finestream: benchmarks come with the repository")
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["one", "two", "--json", "figures.json"], []])
def test_the_command_runs_them_in_the_repository_and_passes_their_exit_code_on(
    arguments: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tests/bench"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text("import sys\nopen('told', 'w').write(' '.join(sys.argv[1:]))\nsys.exit(3)\n")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert CliRunner().invoke(app, ["bench", *arguments]).exit_code == 3
    told = (tmp_path / "told").read_text()
    assert told == " ".join(str(Path.cwd() / a) if a == "figures.json" else a for a in arguments)
