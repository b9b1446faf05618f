"""Rules of the house as data: a YAML or JSON file of pins, boosts and quotas, read again whenever it changes.

    pins:                            # this item at this place, from 1, wherever the request's filters let it be shown
      - {item: B003VWJ2K8, position: 1}
    boosts:                          # of an item or of all items of a category; a factor or an offset
      - {category: strings, factor: 1.2}
      - {item: B0002GMGYA, offset: -0.5}
    quotas:                          # at most so many items of a category in one answer
      - {category: picks, most: 2}

A factor above 1 raises a score, below 1 it lowers it, whatever its sign: a score below 0 is divided by it. Factors of
an item are multiplied, then offsets added. An offset is in the model's scores, so where the popular items are ranked
only factors count. A wrong file at the start is one line and exit code 2; later the rules before it stay.
"""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import yaml
from msgspec import Meta, Struct

from services.ranking import metrics
from shared import logs
from shared.events import Id
from shared.service import Heartbeat

log = logs.get(__name__)
MAX_BYTES: Final = 256 * 1024
MAX_PINS: Final = 100
MAX_RULES: Final = 1000  # boosts, and quotas


class Pin(Struct, frozen=True, forbid_unknown_fields=True):
    item: Id
    position: Annotated[int, Meta(ge=1, le=10_000)]


class Boost(Struct, frozen=True, forbid_unknown_fields=True):
    item: Id = ""
    category: Id = ""
    factor: Annotated[float, Meta(ge=0.001, le=1000)] = 1.0
    offset: Annotated[float, Meta(ge=-1e6, le=1e6)] = 0.0

    def __post_init__(self) -> None:
        if bool(self.item) == bool(self.category):
            raise ValueError("a boost is of an item or of a category; name one of them")
        if (self.factor != 1.0) == (self.offset != 0.0):
            raise ValueError("a boost has a factor other than 1 or an offset other than 0; give one of them")


class Quota(Struct, frozen=True, forbid_unknown_fields=True):
    category: Id
    most: Annotated[int, Meta(ge=1, le=10_000)]


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    pins: Annotated[tuple[Pin, ...], Meta(max_length=MAX_PINS)] = ()
    boosts: Annotated[tuple[Boost, ...], Meta(max_length=MAX_RULES)] = ()
    quotas: Annotated[tuple[Quota, ...], Meta(max_length=MAX_RULES)] = ()

    def __post_init__(self) -> None:
        for name, values in (
            ("an item is pinned", [pin.item for pin in self.pins]),
            ("a position is pinned", [str(pin.position) for pin in self.pins]),
            ("a category has a quota", [quota.category for quota in self.quotas]),
        ):
            if twice := [value for value, times in Counter(values).items() if times > 1]:
                raise ValueError(f"{name} twice: {twice[0]}")


NO_RULES: Final = Rules()


class BadRules(ValueError):
    """One sentence for who wrote the file."""


def read(path: Path) -> Rules:
    """Raises BadRules."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise BadRules(f"{path} has more than {MAX_BYTES} bytes")
        told: Any = yaml.safe_load(data)
        return msgspec.convert({} if told is None else told, Rules)
    except OSError as error:
        raise BadRules(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRules(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise BadRules(f"{path} is nested too deep to be read") from None
    except msgspec.ValidationError as error:
        raise BadRules(f"{path}: {error}") from None


class RulesFile:
    """The rules in force. Raises BadRules, which the settings have looked for before."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.current = NO_RULES
        self._seen: tuple[int, ...] = ()
        if path is not None:
            self._seen, self.current = _mark(path), read(path)

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
            self.current = read(self._path)
        except BadRules as error:
            metrics.RULES_FAILURES.inc()
            log.error("the rules are refused; those before them stay", error=str(error))
        else:
            rules = self.current
            log.info("rules", pins=len(rules.pins), boosts=len(rules.boosts), quotas=len(rules.quotas))


def _mark(path: Path) -> tuple[int, ...]:
    """What is another for another file; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)
