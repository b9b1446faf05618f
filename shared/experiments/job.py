"""One fit and its evaluation, in a process of its own: python -m shared.experiments.job < one line of JSON.

Its own process, so that seconds and peak memory are the model's own, and a fit that dies takes nothing with it.
On stdout it tells how it goes, a line of JSON each: {"stage": ...}, {"epoch", "loss", "reached"}, {"done": true} or
{"failed": "why"}. It ends when stdin does: with the process that asked for it.
"""

import hashlib
import json
import os
import resource
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from shared.experiments import live, tasks
from shared.experiments.cache import Outcome, keep, sources
from shared.experiments.config import Experiment, Row
from shared.experiments.slices import LIVE
from shared.experiments.tasks import DataSpec, Task
from shared.hardware import cpu
from shared.models.evaluation import rank
from shared.models.fitting import Fitted, Run
from shared.models.registry import MODELS

MIB: Final = 2**20
CHECKPOINT: Final = "checkpoint"
Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Asked:
    data: dict[str, Any]  # of DataSpec.of
    root: str
    kind: str
    values: dict[str, Any]
    seed: int
    device: str
    folder: str  # where the outcome is kept

    @staticmethod
    def of(experiment: Experiment, row: Row, seed: int, device: str, folder: Path) -> "Asked":
        root = str(experiment.root)
        return Asked(experiment.data_of(row), root, row.kind, dict(row.values), seed, device, str(folder))

    def line(self) -> str:
        return json.dumps(asdict(self), default=str)


@dataclass
class Peak:
    """How much a process grew: its peak resident memory from `start` on, less what was resident at the start.

    Where the system can forget an older peak (Linux), one that was reached while data was read does not hide the
    model's; elsewhere the growth is counted from that peak.
    """

    baseline: float = field(init=False, default=0.0)

    def start(self, device: str) -> None:
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.baseline = _peak_mib()

    def mib(self, device: str) -> dict[str, float]:
        found = {"peak_mib": max(0.0, _peak_mib() - self.baseline)}
        if device.startswith("cuda"):
            found["device_peak_mib"] = torch.cuda.max_memory_allocated() / MIB
        return found


def main() -> None:
    tell = _teller()
    asked = Asked(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    torch.set_num_threads(1)
    try:
        do(asked, tell)
    except Exception as error:  # noqa: BLE001  # whatever it is, who asked is told; the log has where
        traceback.print_exc()
        tell({"failed": f"{type(error).__name__}: {error}"})
        sys.exit(1)
    tell({"done": True})


def do(asked: Asked, tell: Tell) -> None:
    """Load, fit, ask, keep."""
    folder = Path(asked.folder)
    tell({"stage": "reading the data"})
    task = tasks.load(DataSpec.of(asked.data, Path(asked.root)))
    config = Row("", asked.kind, asked.values, False, None).config(task.test.schema)
    peak = Peak()
    peak.start(asked.device)
    checkpoint = _checkpoint(folder)
    fitted, chosen, costs = fit(task, asked.kind, config, Run(asked.seed, asked.device, checkpoint=checkpoint), tell)
    costs |= peak.mib(asked.device)
    tell({"stage": "asking"})
    targets, metrics, lists = ask(task, fitted)
    measured = time.strftime("%Y-%m-%d", time.gmtime())
    cut_short = bool(costs.pop("cut_short"))
    keep(folder, Outcome(targets, metrics, {**costs, **lists}, measured, machine(asked.device), cut_short, chosen))
    shutil.rmtree(checkpoint, ignore_errors=True)


def fit(task: Task, kind: str, config: Any, run: Run, tell: Tell) -> tuple[Fitted, Mapping[str, Any], dict[str, float]]:
    """Choose on validation, then fit on all that comes before the test where the task says so.

    What is asked, what was chosen, and what it cost.
    """
    fit_model = MODELS[kind].load()[1]
    started = time.perf_counter()
    tell({"stage": "choosing"})
    fitted = chosen = fit_model(task.validation, config, _told(run, "choosing", {}, tell))
    choosing = time.perf_counter() - started
    if task.refit:
        tell({"stage": "refit"})
        started = time.perf_counter()
        fitted = fit_model(task.test, config, _told(run, "refit", chosen.chosen, tell))
    seconds = time.perf_counter() - started
    costs = {
        "seconds": seconds,
        "choosing_seconds": choosing,
        "parameters": fitted.parameters,
        "samples": fitted.samples,
        "epochs": float(chosen.chosen.get("epochs", 0)),
        "cut_short": float(chosen.cut_short or fitted.cut_short),
    }
    return fitted, chosen.chosen, costs


def ask(task: Task, fitted: Fitted) -> tuple[Any, list[str], dict[str, float]]:
    """Figures of every target (T, F), first of the cases and then of the newcomers; their names; what lists hold."""
    split = task.test
    ranking = rank(fitted.scorer, task.cases, split.row_of, repeats=split.repeats, negatives=task.negatives)
    metrics = sorted(ranking.figures)
    parts = [np.stack([ranking.figures[name] for name in metrics], 1)]
    if task.newcomers:
        new = rank(fitted.scorer, task.newcomers, split.row_of, repeats=split.repeats)
        parts.append(np.stack([new.figures[name] for name in metrics], 1))
    found = np.concatenate(parts)
    if task.log is not None and live.is_servable(fitted.model):
        served = live.figures(task, fitted.model)
        found = np.concatenate([found, np.stack([served[name] for name in metrics], 1)], 1)
        metrics += [LIVE + name for name in metrics]
    lists = {"coverage@10": ranking.coverage, "gini@10": ranking.gini}
    return found.astype(np.float32), metrics, lists


def machine(device: str) -> str:
    """The hardware in words."""
    gpu = f"{torch.cuda.get_device_name()}, " if device.startswith("cuda") else ""
    return f"{gpu}{cpu()}, one thread a fit"


def _told(run: Run, stage: str, chosen: Mapping[str, Any], tell: Tell) -> Run:
    assert run.checkpoint is not None
    folder = run.checkpoint / stage
    folder.mkdir(parents=True, exist_ok=True)

    def report(epoch: int, loss: float, reached: float) -> None:
        tell({"stage": stage, "epoch": epoch, "loss": loss, "reached": reached})

    return Run(run.seed, run.device, chosen=chosen, checkpoint=folder, report=report, similar=_similar)


def _checkpoint(folder: Path) -> Path:
    """Where a fit that is killed goes on: only with the very code that it began with."""
    made_by = hashlib.sha256(json.dumps(sources()).encode()).hexdigest()[:12]
    ours = folder.with_name(f"{folder.name}.{CHECKPOINT}.{made_by}")
    for other in folder.parent.glob(f"{folder.name}.{CHECKPOINT}.*"):
        if other != ours:
            shutil.rmtree(other, ignore_errors=True)
    return ours


def _similar(vectors: Any, k: int) -> tuple[Any, Any]:
    """Users alike, by the vector index, which is loaded only for who asks."""
    from shared.similar_users import EdgeSimilar

    return EdgeSimilar()(vectors, k)


def _peak_mib() -> float:
    try:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / MIB if sys.platform == "darwin" else peak / 1024


def _teller() -> Tell:
    """Lines for who asked. Whatever else is printed goes to stderr."""
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lambda what: print(json.dumps(what), file=told)


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
