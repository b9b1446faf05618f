"""A YAML or JSON file that the operator keeps, read again whenever it changes.

A wrong file at the start is one line and exit code 2; later what was read before it stays.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec
import yaml

from shared import logs
from shared.service import Heartbeat

T = TypeVar("T")
log = logs.get(__name__)
MAX_BYTES: Final = 256 * 1024


class BadFile(ValueError):
    """One sentence for who wrote the file."""


def read(path: Path, kind: type[T]) -> T:
    """The file as a `kind`, which is a Struct; an empty one is all of its defaults. Raises BadFile."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise BadFile(f"{path} has more than {MAX_BYTES} bytes")
        told: Any = yaml.safe_load(data)
        return msgspec.convert({} if told is None else told, kind)
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise BadFile(f"{path} is nested too deep to be read") from None
    except msgspec.ValidationError as error:
        raise BadFile(f"{path}: {error}") from None


class OperatorFile(Generic[T]):
    """What the file says, as `parse` makes it; `none` where there is no file. `refused` is told of each wrong one.

    Raises BadFile, which the settings have looked for before.
    """

    def __init__(self, path: Path | None, parse: Callable[[Path], T], none: T, refused: Callable[[], None]) -> None:
        self._path = path
        self._parse = parse
        self._refused = refused
        self.current = none
        self._seen: tuple[int, ...] = ()
        if path is not None:
            self._seen, self.current = _mark(path), parse(path)

    async def run(self, poll_seconds: float, heart: Heartbeat) -> None:
        """Look for ever."""
        while True:
            await asyncio.to_thread(self.look)
            heart.beat()
            await asyncio.sleep(poll_seconds)

    def look(self) -> None:
        """Read the file if it is another one; a wrong one is told once and changes nothing."""
        if self._path is None or (mark := _mark(self._path)) == self._seen:
            return
        self._seen = mark
        try:
            self.current = self._parse(self._path)
        except BadFile as error:
            self._refused()
            log.error("the file is refused; what was read before it stays", error=str(error))
        else:
            log.info("the file was read again", path=str(self._path))


def _mark(path: Path) -> tuple[int, ...]:
    """What is another for another file; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)
