"""What a person sees of a running job: a bar on a terminal, plain log lines elsewhere."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared import logs
from shared.models.fitting import Report

log = logs.get(__name__)


@contextmanager
def epochs(what: str, count: int) -> Iterator[Report]:
    """A report function for one fit."""
    if not sys.stderr.isatty():
        yield lambda epoch, loss, reached: log.info(what, epoch=epoch, of=count, **_told(loss, reached))
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=count)

        def show(epoch: int, loss: float, reached: float) -> None:
            told = ", ".join(f"{name} {value:.3f}" for name, value in _told(loss, reached).items())
            bar.update(task, completed=epoch, description=f"{what}: {told}")

        yield show


def _told(loss: float, reached: float) -> dict[str, float]:
    """The training loss, and what was reached on validation: the higher, the better."""
    told = {"training_loss": round(loss, 4)}
    return told if math.isnan(reached) else {**told, "validation": round(reached, 4)}
