"""What a person sees of a running job: a bar on a terminal, plain log lines elsewhere."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.trainer.fit import Report
from shared import logs

log = logs.get(__name__)


@contextmanager
def epochs(what: str, count: int) -> Iterator[Report]:
    """A report function for one fit."""
    if not sys.stderr.isatty():
        yield lambda epoch, trained, held_out: log.info(what, epoch=epoch, of=count, **_losses(trained, held_out))
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=count)

        def show(epoch: int, trained: float, held_out: float) -> None:
            told = ", ".join(f"{name} {value:.3f}" for name, value in _losses(trained, held_out).items())
            bar.update(task, completed=epoch, description=f"{what}: {told}")

        yield show


def _losses(trained: float, held_out: float) -> dict[str, float]:
    losses = {"training_loss": round(trained, 4)}
    return losses if math.isnan(held_out) else {**losses, "validation_loss": round(held_out, 4)}
