"""A YAML or JSON file of an operator's, checked as a whole and read again whenever it changes.

A wrong file at the start is one line and exit code 2; later what was good before it stays.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec
import yaml

from shared import logs

T = TypeVar("T")
log = logs.get(__name__)
MAX_BYTES: Final = 256 * 1024


class BadFile(ValueError):
    """One sentence for who wrote the file."""


def read(path: Path, kind: type[T]) -> T | None:
    """What the file says, as a kind that msgspec knows; None where it says nothing. Raises BadFile."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise BadFile(f"{path} has more than {MAX_BYTES} bytes")
        told = yaml.safe_load(data)
        return None if told is None else msgspec.convert(told, kind)
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise BadFile(f"{path} is nested too deep to be read") from None
    except msgspec.ValidationError as error:
        raise BadFile(f"{path}: {error}") from None


class WatchedFile(Generic[T]):
    """The last good reading of a file, `none` without one. `read` raises BadFile; `refused` hears of each wrong one."""

    def __init__(self, path: Path | None, read: Callable[[Path], T], none: T, refused: Callable[[], None]) -> None:
        self._path = path
        self._read = read
        self._refused = refused
        self._seen = _mark(path) if path else ()
        self.current = read(path) if path else none

    async def run(self, poll_seconds: float, beat: Callable[[], None]) -> None:
        """Look for ever."""
        while True:
            await asyncio.to_thread(self.look)
            beat()
            await asyncio.sleep(poll_seconds)

    def look(self) -> None:
        """Read the file if it is another one; a wrong one is told once and changes nothing."""
        if self._path is None or (mark := _mark(self._path)) == self._seen:
            return
        self._seen = mark
        try:
            self.current = self._read(self._path)
        except BadFile as error:
            self._refused()
            log.error("a changed file is refused; what it said before stays", error=str(error))
        else:
            log.info("a changed file is in force", path=str(self._path))


def _mark(path: Path) -> tuple[int, ...]:
    """What is another for another file; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)
