"""`finestream evaluate`: every model on one protocol, and what it gave as Markdown, JSON and plots."""

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from shared import logs
from shared.cli.running import fail

PLAIN_SECONDS: Final = 5.0  # between two lines of one fit where there is no terminal

Configs = Annotated[list[str] | None, typer.Argument(help="shipped configs by name, or TOML files")]


def evaluate(
    configs: Configs = None,
    data: Annotated[Path, typer.Option(help="folder that paths in configs start at")] = Path("../shared/data"),
    out: Annotated[Path, typer.Option(help="the document; what is between its markers is kept")] = Path(
        "docs/results.md"
    ),
    json: Annotated[Path, typer.Option(help="the same as rows")] = Path("docs/results.json"),
    plots: Annotated[Path, typer.Option(help="folder of the drawings")] = Path("docs/plots"),
    workers: Annotated[int, typer.Option(min=1, help="fits at a time, one thread each")] = 1,
    seeds: Annotated[int | None, typer.Option(min=1, help="instead of what the configs say")] = None,
    only: Annotated[list[str] | None, typer.Option(help="fit rows of this label only; may be repeated")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="fit again what is kept from before")] = False,
    device: Annotated[str, typer.Option(help="cpu, or cuda")] = "cpu",
    cache: Annotated[Path, typer.Option(help="folder of finished fits")] = Path(".run/evaluate"),
) -> None:
    """Fit and measure models on one protocol. Without configs: draw document and plots from the JSON again.

    Finished fits are kept: a run that was killed goes on where it was. Sections of other configs stay as they are.
    """
    # Imported here: the other commands are not to wait for torch.
    from shared.archive import BadArchive
    from shared.experiments import config, experiment
    from shared.experiments.extracted import ExtractionFailed
    from shared.experiments.results import Results, results_of

    logs.configure("evaluate", "warning")
    console = Console(stderr=True)
    try:
        results = Results.read(json)
        experiments = [config.read(name, data, seeds) for name in configs or ()]
        _check_labels(experiments, only or [])
    except (config.WrongConfig, ValueError) as error:
        fail(str(error), 2)
    options = experiment.Options(cache, workers, device, fresh, tuple(only or ()))
    try:
        measured = experiment.begin(experiments)
        with _watching(console) as watcher:
            experiment.run(measured, options, watcher)
    except (OSError, ValueError, BadArchive, ExtractionFailed) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from here", 130)
    written = False
    for of in measured:
        _tell(of, console)
        if of.outcomes and not of.missing:
            results, written = results.updated(results_of(of)), True
    if written or not experiments:
        results.write(json)
        write_document(results, out, plots, console)
    raise typer.Exit(1 if any(of.failed for of in measured) else 0)


def write_document(results: Any, out: Path, plots: Path, console: Console) -> None:
    """The document and its drawings, from the rows alone."""
    from shared.experiments.document import by_hand, render
    from shared.experiments.plots import NoPlots, draw

    names = [run["experiment"] for run in results.runs]
    try:
        draw(results, names, plots)
    except NoPlots as error:
        console.print(str(error), markup=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    kept = by_hand(out.read_text() if out.exists() else "")
    out.write_text(render(results, kept, linked(names, plots, out)))
    console.print(f"written: {out}", markup=False)


def linked(experiments: Sequence[str], plots: Path, out: Path) -> dict[str, str]:
    """experiment -> its drawing, as the document names it."""
    drawn = {name: plots / f"{name}.svg" for name in experiments}
    return {name: os.path.relpath(path, out.parent) for name, path in drawn.items() if path.exists()}


def _check_labels(experiments: Sequence[Any], only: Sequence[str]) -> None:
    labels = {row.label for experiment in experiments for row in experiment.rows}
    if wrong := [label for label in only if label not in labels]:
        raise ValueError(f"--only {wrong[0]!r}: there is no such label; there are {', '.join(sorted(labels))}")


def _tell(of: Any, console: Console) -> None:
    """An experiment's figures, and what is not among them."""
    from shared.experiments.results import results_of

    for label, why in of.failed.items():
        console.print(f"{of.experiment.name}: {label} was not measured: {why}", markup=False, soft_wrap=True)
    if of.missing:
        left = ", ".join(of.missing)
        console.print(f"{of.experiment.name} is not written: not fitted yet are {left}", markup=False, soft_wrap=True)
    if of.outcomes:
        Console().print(_summary(results_of(of), of.experiment.title))


def _summary(results: Any, title: str) -> Table:
    from shared.experiments.document import figure
    from shared.experiments.results import METRICS
    from shared.experiments.slices import OVERALL

    figures = results.of(results.runs[0]["experiment"])
    drawn = Table("model", *map(str.upper, METRICS), "tail NDCG@20", title=escape(title), title_justify="left")
    for model in figures.models:
        cells = [figure(figures.mean(model, OVERALL, metric) or 0.0) for metric in METRICS]
        drawn.add_row(escape(model), *cells, figure(figures.mean(model, "tail_items", "ndcg@20") or 0.0))
    return drawn


@contextmanager
def _watching(console: Console) -> Iterator[Any]:
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)


class Lines:
    """What is told where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[str, float] = {}

    def planned(self, jobs: int, kept: int) -> None:
        self._say(f"{jobs} fits to do, {kept} kept from before")

    def stage(self, job: Any, stage: str) -> None:
        self._say(f"{job.name}: {stage}")

    def epoch(self, job: Any, epoch: int, loss: float, reached: float, seconds: float) -> None:
        now = time.monotonic()
        if now - self._told.get(job.name, -math.inf) >= PLAIN_SECONDS:
            self._told[job.name] = now
            self._say(f"{job.name}: {_epoch(epoch, loss, reached, seconds)}")

    def done(self, job: Any, seconds: float) -> None:
        self._say(f"{job.name}: done after {seconds:.1f} s")

    def failed(self, job: Any, why: str) -> None:
        self._say(f"{job.name}: failed, {why}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """A bar for all, and a line for each fit that is under way."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._all = progress.add_task("fits", total=None)
        self._tasks: dict[str, Any] = {}

    def planned(self, jobs: int, kept: int) -> None:
        self._progress.update(self._all, total=jobs, description=f"fits ({kept} kept from before)")

    def stage(self, job: Any, stage: str) -> None:
        self._show(job, stage)

    def epoch(self, job: Any, epoch: int, loss: float, reached: float, seconds: float) -> None:
        self._show(job, _epoch(epoch, loss, reached, seconds))

    def done(self, job: Any, seconds: float) -> None:
        self._end(job)

    def failed(self, job: Any, why: str) -> None:
        self._progress.console.print(f"{job.name}: failed, {why}", markup=False)
        self._end(job)

    def _show(self, job: Any, text: str) -> None:
        if job.name not in self._tasks:
            self._tasks[job.name] = self._progress.add_task("", total=None)
        self._progress.update(self._tasks[job.name], description=escape(f"{job.name}: {text}"))

    def _end(self, job: Any) -> None:
        if job.name in self._tasks:
            self._progress.remove_task(self._tasks.pop(job.name))
        self._progress.advance(self._all)


def _epoch(epoch: int, loss: float, reached: float, seconds: float) -> str:
    validation = "" if math.isnan(reached) else f", validation {reached:.4f}"
    return f"epoch {epoch}, loss {loss:.4f}{validation}, {seconds:.0f} s"
