"""The log lines of the parts, one stream: each with its part's name, coloured on a terminal, plain elsewhere."""

import json
from pathlib import Path
from typing import Final, Protocol, TextIO

from rich.console import Console
from rich.text import Text

COLOURS: Final = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan", "bright_green")
LEVELS: Final = {"warning": "yellow", "error": "bold red", "critical": "bold red"}
WIDTH: Final = 13


class Sink(Protocol):
    def __call__(self, name: str, line: str) -> None: ...


class OnConsole:
    """Prints each line with its part's name in front."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._colour_of: dict[str, str] = {}

    def __call__(self, name: str, line: str) -> None:
        colour = self._colour_of.setdefault(name, COLOURS[len(self._colour_of) % len(COLOURS)])
        text = Text.assemble((f"{name:<{WIDTH}} | ", colour), self._styled(line))
        # Wrapped by the terminal, not by us: a line stays one line in a file or a pipe.
        self._console.print(text, soft_wrap=True)

    def _styled(self, line: str) -> tuple[str, str] | str:
        return (short(line), LEVELS.get(level_of(line), "")) if self._console.is_terminal else line


class InFiles:
    """Writes each part's lines to a file of its own, for a run whose terminal shows something else."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files: dict[str, TextIO] = {}

    def __call__(self, name: str, line: str) -> None:
        if name not in self._files:
            self._files[name] = (self._folder / f"{name}.log").open("a", buffering=1)
        self._files[name].write(line + "\n")

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def level_of(line: str) -> str:
    """The level of a JSON log line; "" for any other line."""
    fields = _fields(line)
    return str(fields.get("level", "")) if fields else ""


def short(line: str) -> str:
    """A JSON log line for the eye: time, level, event, then fields; any other line as it is."""
    fields = _fields(line)
    if fields is None or "event" not in fields:
        return line
    time, level, event = (str(fields.pop(name, "")) for name in ("timestamp", "level", "event"))
    fields.pop("service", None)
    rest = " ".join(f"{key}={value}" for key, value in fields.items())
    return " ".join(part for part in (time[11:19], level, event, rest) if part)


def _fields(line: str) -> dict[str, object] | None:
    if not line.startswith("{"):
        return None
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None
