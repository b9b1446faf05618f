"""Runs experiments: every (row, seed) as a process of its own, a few at a time, and what they gave put together."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from shared.experiments import tasks
from shared.experiments.cache import Outcome, forget_digests, kept, key_of
from shared.experiments.config import Experiment, Row
from shared.experiments.job import Asked
from shared.experiments.slices import Slices, slices

CACHE: Final = Path(".run/evaluate")
ONE_THREAD: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Options:
    cache: Path = CACHE
    workers: int = 1
    device: str = "cpu"
    fresh: bool = False  # do all again
    only: Sequence[str] = ()  # labels to fit; of others, what is kept is taken


@dataclass(frozen=True)
class Job:
    experiment: Experiment
    row: Row
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.experiment.name}: {self.row.label}" + (f", seed {self.seed}" if self.row.random else "")


class Watcher(Protocol):
    """Is told how it goes, by several threads but one at a time."""

    def planned(self, jobs: int, kept: int) -> None: ...

    def stage(self, job: Job, stage: str) -> None: ...

    def epoch(self, job: Job, epoch: int, loss: float, reached: float, seconds: float) -> None:
        """`seconds` since the job began."""
        ...

    def done(self, job: Job, seconds: float) -> None: ...

    def failed(self, job: Job, why: str) -> None: ...


@dataclass
class Measured:
    """What an experiment gave. `missing`: labels that were not to be fitted, and of which not all was kept."""

    experiment: Experiment
    slices: Slices
    figures: Mapping[str, float]  # how large the data is
    protocol: str
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)  # by label, one a seed
    failed: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def begin(experiments: Sequence[Experiment]) -> list[Measured]:
    """Read the data before any fit: what it needs made is then there, and a missing file is told at once.

    Raises what tasks.load does.
    """
    begun = []
    for experiment in experiments:
        task = tasks.load(experiment.spec)
        begun.append(Measured(experiment, slices(task), task.figures, task.protocol))
    return begun


def run(begun: Sequence[Measured], options: Options, watcher: Watcher) -> None:
    """Fit what is not kept yet, and put outcomes into `begun`. A row of which a fit failed is told in `failed`."""
    forget_digests()
    plan = {measured.experiment.name: jobs_of(measured.experiment, options) for measured in begun}
    # One fit may stand in two tables: it is done once.
    todo = {job.folder: job for jobs in plan.values() for job in jobs if _wanted(job, options)}
    if options.fresh:
        for folder in todo:
            shutil.rmtree(folder, ignore_errors=True)
    left = [job for job in todo.values() if kept(job.folder) is None]
    watcher.planned(len(left), len(todo) - len(left))
    failures = _done(left, options, watcher)
    forget_digests()
    for measured in begun:
        _collect(measured, plan[measured.experiment.name], failures, options)


def jobs_of(experiment: Experiment, options: Options) -> list[Job]:
    return [
        Job(experiment, row, seed, options.cache / key_of(experiment, row, seed, options.device))
        for row in experiment.rows
        for seed in experiment.seeds_of(row)
    ]


def _wanted(job: Job, options: Options) -> bool:
    return not options.only or job.row.label in options.only


def _done(jobs: Sequence[Job], options: Options, watcher: Watcher) -> dict[Path, str]:
    """Do all jobs; folders of those that failed, and why."""
    options.cache.mkdir(parents=True, exist_ok=True)
    running: set[subprocess.Popen[str]] = set()
    told = threading.Lock()
    failures: dict[Path, str] = {}

    def one(job: Job) -> None:
        why = _run(job, options, watcher, told, running)
        if why:
            failures[job.folder] = why

    with ThreadPoolExecutor(options.workers) as pool:
        try:
            list(pool.map(one, jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.kill()
            raise
    return failures


def _run(
    job: Job, options: Options, watcher: Watcher, told: threading.Lock, running: set[subprocess.Popen[str]]
) -> str:
    """One job to its end; why it failed, or "". What it prints goes to a log beside its folder."""
    asked = Asked.of(job.experiment, job.row, job.seed, options.device, job.folder)
    log = job.folder.with_name(job.folder.name + ".log")
    started = time.monotonic()
    why = ""
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "shared.experiments.job"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=stderr, text=True, env={**os.environ, **dict.fromkeys(ONE_THREAD, "1")}, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        running.add(process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(asked.line() + "\n")
        process.stdin.flush()  # and left open: the job ends when it closes
        for line in process.stdout:
            message: dict[str, Any] = json.loads(line)
            why = message.get("failed", why)
            with told:
                _pass_on(message, job, watcher, time.monotonic() - started)
        code = process.wait()
        running.discard(process)
    if code == 0:
        with told:
            watcher.done(job, time.monotonic() - started)
        log.unlink()
        return ""
    why = why or (f"it was killed by signal {-code}" if code < 0 else f"it ended with code {code}")
    with told:
        watcher.failed(job, f"{why} (see {log})")
    return why


def _pass_on(message: Mapping[str, Any], job: Job, watcher: Watcher, seconds: float) -> None:
    if "epoch" in message:
        watcher.epoch(job, message["epoch"], message["loss"], message["reached"], seconds)
    elif "stage" in message:
        watcher.stage(job, message["stage"])


def _collect(measured: Measured, jobs: Iterable[Job], failures: Mapping[Path, str], options: Options) -> None:
    for job in jobs:
        label = job.row.label
        outcome = kept(job.folder)
        if job.folder in failures:
            measured.failed[label] = failures[job.folder]
        elif outcome is not None:
            measured.outcomes.setdefault(label, []).append(outcome)
        elif _wanted(job, options):
            measured.failed[label] = "its code changed while it was fitted: run again"
        elif label not in measured.missing:
            measured.missing.append(label)
    for label in (*measured.failed, *measured.missing):
        measured.outcomes.pop(label, None)
