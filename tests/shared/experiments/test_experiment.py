"""Fits as processes of their own, kept, and gone on with. Few, since each takes seconds to start."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.experiments import cache, job, tasks
from shared.experiments.cache import Outcome, keep, kept, key_of
from shared.experiments.config import Experiment, read
from shared.experiments.experiment import Job, Measured, Options, begin, jobs_of, run
from shared.experiments.job import Asked, Peak
from shared.models.evaluation import evaluate
from shared.models.fitting import Run
from tests.shared.experiments.small import DATA, TWO_MODELS, run_here, write_config, write_log


class Heard:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.plan: list[tuple[int, int]] = []
        self.told: list[tuple[str, str]] = []

    def planned(self, jobs: int, kept: int) -> None:
        self.plan.append((jobs, kept))

    def stage(self, job: Job, stage: str) -> None:
        self.told.append((job.row.label, stage))

    def epoch(self, job: Job, epoch: int, loss: float, reached: float, seconds: float) -> None:
        self.told.append((job.row.label, f"epoch {epoch}"))

    def done(self, job: Job, seconds: float) -> None:
        self.told.append((job.row.label, "done"))

    def failed(self, job: Job, why: str) -> None:
        self.told.append((job.row.label, why))


def experiment(folder: Path, models: str = TWO_MODELS, data: str = DATA) -> Experiment:
    write_log(folder)
    return read(str(write_config(folder / "small.toml", models, data)), folder, seeds=1)


def done(found: Experiment, options: Options, heard: Heard) -> Measured:
    (measured,) = begin([found])
    run([measured], options, heard)
    return measured


def outcome(value: float = 0.5) -> Outcome:
    return Outcome(np.full((3, 2), value, np.float32), ["mrr", "hr@10"], {"seconds": 1.0}, "2026-11-20", "here", False)


def asked(found: Experiment, folder: Path, at: int = 0) -> Asked:
    return Asked.of(found, found.rows[at], 1, "cpu", folder)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.experiments.experiment._run", run_here)


def test_a_job_measures_what_the_evaluation_does(tmp_path: Path) -> None:
    found = experiment(tmp_path)
    told: list[object] = []
    job.do(asked(found, tmp_path / "out", at=1), told.append)
    got = kept(tmp_path / "out")
    assert got is not None
    task = tasks.load(found.spec)
    row = found.rows[1]
    fitted, _, _ = job.fit(task, row.kind, row.config(task.test.schema), Run(checkpoint=tmp_path / "c"), told.append)
    expected = evaluate(fitted.scorer, task.cases, task.test.row_of, task.test.counts.tolist())
    known = sum(len(case.targets) for case in task.cases)
    new = sum(len(case.targets) for case in task.newcomers)
    assert len(got.targets) == known + new
    assert new > 0
    for at, name in enumerate(got.metrics):
        assert got.targets[:known, at].mean() == pytest.approx(expected[name], abs=1e-6)
    assert got.costs["seconds"] > 0
    assert 0 < got.costs["coverage@10"] <= 1
    assert [what["stage"] for what in told[:4]] == ["reading the data", "choosing", "refit", "asking"]  # type: ignore[index]
    assert not list(tmp_path.glob("*checkpoint*"))


def test_a_learnt_model_is_refitted_with_what_validation_chose(tmp_path: Path) -> None:
    models = '[[model]]\nkind = "sasrec"\nepochs = 2\nd = 8\n'
    told: list[dict[str, object]] = []
    job.do(asked(experiment(tmp_path, models), tmp_path / "out"), told.append)  # type: ignore[arg-type]
    got = kept(tmp_path / "out")
    assert got is not None
    refit = [what for what in told if what.get("stage") == "refit" and "epoch" in what]
    assert len(refit) == got.costs["epochs"]
    assert all(np.isnan(what["reached"]) for what in refit)  # type: ignore[call-overload]


@pytest.mark.usefixtures("here")
def test_finished_fits_are_not_done_again_and_missing_ones_are(tmp_path: Path) -> None:
    found = experiment(tmp_path)
    options = Options(tmp_path / "cache", workers=2)
    first, second, third = Heard(), Heard(), Heard()
    measured = done(found, options, first)
    assert first.plan == [(2, 0)]
    assert sorted(measured.outcomes) == ["item_knn", "popularity"]
    assert ("popularity", "done") in first.told
    again = done(found, options, second)
    assert second.plan == [(0, 2)]
    assert second.told == []
    assert (again.outcomes["item_knn"][0].targets == measured.outcomes["item_knn"][0].targets).all()
    (jobs_of(found, options)[0].folder / cache.RESULT).unlink()
    done(found, options, third)
    assert third.plan == [(1, 1)]


@pytest.mark.usefixtures("here")
def test_only_some_labels_fitted_leaves_the_others_missing(tmp_path: Path) -> None:
    found = experiment(tmp_path)
    heard = Heard()
    measured = done(found, Options(tmp_path / "cache", only=["popularity"]), heard)
    assert heard.plan == [(1, 0)]
    assert list(measured.outcomes) == ["popularity"]
    assert measured.missing == ["item_knn"]


def test_a_fit_that_fails_takes_nothing_with_it(tmp_path: Path) -> None:
    models = TWO_MODELS + '[[model]]\nkind = "sasrec"\nd = 7\nheads = 2\n'
    found = experiment(tmp_path, models)
    row = next(row for row in found.rows if row.kind == "popularity")
    options = Options(tmp_path / "cache", only=["sasrec"])
    keep(options.cache / key_of(found, row, 1, "cpu"), outcome())
    heard = Heard()
    measured = done(found, options, heard)
    assert list(measured.failed) == ["sasrec"]
    assert list(measured.outcomes) == ["popularity"]
    log = next((tmp_path / "cache").glob("*.log"))
    assert "Traceback" in log.read_text()
    assert heard.told[-1][1].endswith(f"(see {log})")


def test_the_key_is_of_what_decides_a_result_and_of_nothing_else(tmp_path: Path) -> None:
    found = experiment(tmp_path)
    row = found.rows[1]
    key = key_of(found, row, 1, "cpu")
    (tmp_path / "elsewhere").mkdir()
    moved = experiment(tmp_path / "elsewhere")
    assert key_of(moved, replace(row, label="another"), 1, "cpu") == key
    others = {
        key_of(found, row, 2, "cpu"),
        key_of(found, row, 1, "cuda"),
        key_of(found, replace(row, values={"k": 7}), 1, "cpu"),
        key_of(found, found.rows[0], 1, "cpu"),
        key_of(found, replace(row, data={"pairs": "none"}), 1, "cpu"),
        key_of(experiment(tmp_path / "half", data=DATA + "split = 0.5\n"), row, 1, "cpu"),
    }
    assert len(others | {key}) == 7
    with (tmp_path / "log.txt").open("a") as log:
        log.write("u0 i0 1600000000\n")
    cache.forget_digests()
    assert key_of(found, row, 1, "cpu") != key


def test_what_other_code_made_counts_as_not_done(tmp_path: Path) -> None:
    folder = tmp_path / "fit"
    keep(folder, outcome())
    stored = json.loads((folder / cache.RESULT).read_text())
    assert "shared/models/evaluation.py" in stored["sources"]
    assert "shared/experiments/tasks.py" in stored["sources"]
    assert kept(folder) is not None
    stored["sources"]["shared/models/evaluation.py"] = "another"
    (folder / cache.RESULT).write_text(json.dumps(stored))
    assert kept(folder) is None


def test_a_kill_while_keeping_leaves_nothing_that_counts(tmp_path: Path) -> None:
    keep(tmp_path / "fit", outcome())
    (tmp_path / "fit" / cache.TARGETS).write_bytes(b"half")
    assert kept(tmp_path / "fit") is None
    keep(tmp_path / "fit", outcome(0.25))
    again = kept(tmp_path / "fit")
    assert again is not None
    assert again.targets[0, 0] == 0.25


def test_a_job_ends_with_who_asked_for_it(tmp_path: Path) -> None:
    line = asked(
        experiment(tmp_path, '[[model]]\nkind = "sasrec"\nepochs = 100000\npatience = 100000\n'), tmp_path / "out"
    ).line()
    with subprocess.Popen(
        [sys.executable, "-m", "shared.experiments.job"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        while "epoch" not in json.loads(process.stdout.readline()):
            pass
        process.stdin.close()
        assert process.wait(20) == 1


def test_peak_memory_is_the_growth_from_the_start_on() -> None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not forget a peak: growth is then counted from the highest one")
    np.ones(320 * 2**20 // 8).sum()  # a peak of before, higher than the one that counts
    peak = Peak()
    peak.start("cpu")
    np.ones(160 * 2**20 // 8).sum()
    assert 120 < peak.mib("cpu")["peak_mib"] < 220
