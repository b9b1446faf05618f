"""What a person sees of long work: a bar on a terminal, a log line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shared import logs

SECONDS_BETWEEN_LINES: Final = 10.0
log = logs.get(__name__)


@contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with how many more are done."""
    if sys.stderr.isatty():
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total)
            yield lambda more: bar.update(task, advance=more)
        return
    lines = _Lines(what, total)
    yield lines
    lines.tell()


class _Lines:
    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._began = self._told = time.monotonic()

    def __call__(self, more: int) -> None:
        self._done += more
        if time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self.tell()

    def tell(self) -> None:
        self._told = time.monotonic()
        rate = self._done / max(self._told - self._began, 1e-9)
        log.info(self._what, done=self._done, of=self._total, a_second=round(rate, 1))
