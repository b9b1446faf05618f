"""What a long command shows: headings with the time, a progress bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

INDENT: Final = " " * 10
PLAIN_SECONDS: Final = 5.0  # between two lines of progress where there is no terminal


class Bar(Protocol):
    def at(self, done: int) -> None:
        """So many are done."""
        ...


class Screen:
    """Prints to one console; `seconds` is the time since it was made."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def heading(self, text: str) -> None:
        self.console.print(f"\n[bold]{self.seconds:6.1f} s  {escape(text)}[/bold]", highlight=False)

    def say(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """What belongs to the heading above."""
        self.say(f"{INDENT}{text}")

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Bar]:
        """A bar that ends at `total`."""
        if not self.console.is_terminal:
            plain = _Lines(self, title, total)
            yield plain
            plain.end()
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self.console) as drawn:
            yield _Drawn(drawn, INDENT + title, total)


class _Drawn:
    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total)

    def at(self, done: int) -> None:
        self._progress.update(self._task, completed=done)


class _Lines:
    def __init__(self, screen: Screen, title: str, total: int) -> None:
        self._screen, self._title, self._total = screen, title, total
        self._done = 0
        self._next = time.monotonic() + PLAIN_SECONDS

    def at(self, done: int) -> None:
        self._done = done
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PLAIN_SECONDS
            self.end()

    def end(self) -> None:
        self._screen.note(f"{self._title}: {self._done} of {self._total}")
