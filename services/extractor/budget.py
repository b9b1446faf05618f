"""What may be spent in one day (UTC): reserved before a call, settled after it, and kept in a file.

A process takes money out of the file in steps, before it spends it. One that is killed has spent its last step: what
was spent is never forgotten, and at worst a hundredth of the budget is not used. Processes that share the folder share
the budget.
"""

import asyncio
import fcntl
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from services.extractor import metrics
from shared import files
from shared.errors import FinestreamError, Unavailable

FILE: Final = "spent.json"
STEPS: Final = 100  # that a day's budget is taken in, so that the file is written seldom
ROUNDING: Final = 1e-9  # USD: sums of many small numbers are not exact


class OverBudget(Unavailable):
    """What is left of today's budget does not pay for another call."""


class Damaged(FinestreamError):
    """The file does not say what was spent."""


class Taken(Struct, frozen=True):
    """What the file holds: money that is spent, or in the hands of a process that may spend it."""

    day: date
    usd: Annotated[float, Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class Reserved:
    day: date
    usd: float


def today() -> date:
    return datetime.now(UTC).date()


class Budget:
    def __init__(self, folder: Path, usd: float, clock: Callable[[], date] = today) -> None:
        """Raises Damaged, OSError."""
        self._usd = usd
        self._clock = clock
        self._file, self._lock = folder / FILE, folder / f"{FILE}.lock"
        self._settled = asyncio.Event()
        self._day = clock()
        self._taken = self._spent = self._reserved = 0.0  # of this process, in USD and today
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked():  # shows now whether the folder can be written
            files.replace(self._file, msgspec.json.encode(self._held()))
        metrics.BUDGET_LEFT.set_function(self.left)

    def left(self) -> float:
        """USD that are neither spent nor in the hands of another process; not a number where nobody knows."""
        try:
            return self._left()
        except (OSError, Damaged):  # the next call says what is wrong; a scrape must not end in an error
            return math.nan

    @property
    def step(self) -> float:
        """USD that may be left over of a day."""
        return self._usd / STEPS

    def room(self) -> float:
        """USD that are not reserved either. Raises Unavailable."""
        try:
            return self._left() - self._reserved
        except (OSError, Damaged) as error:
            raise _unkept(error) from error

    async def reserve(self, usd: float) -> Reserved:
        """Room for a call that costs at most so much; `settle` must follow. Raises OverBudget, Unavailable.

        Calls in flight mostly give back some of what they reserved: they are waited for.
        """
        while (reserved := self.reserve_now(usd)) is None:
            if self._reserved <= ROUNDING:
                raise self.over()
            await self._settled.wait()
        return reserved

    def reserve_now(self, usd: float) -> Reserved | None:
        """None where there is no room. Raises Unavailable."""
        return Reserved(self._day, usd) if self._reserve(usd) else None

    def over(self) -> OverBudget:
        return OverBudget(
            f"what is left of today's budget of {self._usd:g} USD (FINESTREAM_OPENAI_DAILY_BUDGET_USD) does not"
            " pay for another call to the language model; it goes on at 00:00 UTC"
        )

    def resume(self, reserved: Reserved) -> None:
        """Take over what a process reserved that is no more; `settle` must follow."""
        self._turn_page()
        if reserved.day == self._day:
            self._taken += reserved.usd
            self._reserved += reserved.usd

    def settle(self, reserved: Reserved, usd: float) -> None:
        """The call cost so much. What was reserved yesterday is yesterday's."""
        if reserved.day == self._day:
            self._reserved -= reserved.usd
            self._spent += usd
        self._settled.set()
        self._settled = asyncio.Event()

    def close(self) -> None:
        """Give back what was taken and not spent; calls in flight count with what they reserved."""
        with self._locked():
            held = self._held()
            if held.day == self._day:
                unused = self._taken - self._spent - self._reserved
                self._taken -= unused
                files.replace(self._file, msgspec.json.encode(Taken(held.day, max(0.0, held.usd - unused))))

    def _reserve(self, usd: float) -> bool:
        self._turn_page()
        missing = self._spent + self._reserved + usd - self._taken
        if missing > ROUNDING and not self._take(missing):
            return False
        self._reserved += usd
        return True

    def _turn_page(self) -> None:
        if self._clock() > self._day:  # a clock that is set back brings no money
            self._day = self._clock()
            self._taken = self._spent = self._reserved = 0.0

    def _take(self, missing: float) -> bool:
        """In the event loop: it is some hundred times a day at most that a step is taken, or in vain."""
        try:
            with self._locked():
                held = self._held()
                left = self._usd - held.usd
                if missing > left + ROUNDING:
                    return False
                step = min(left, max(missing, self.step))
                files.replace(self._file, msgspec.json.encode(Taken(held.day, held.usd + step)))
        except (OSError, Damaged) as error:
            raise _unkept(error) from error
        self._taken += step
        return True

    def _left(self) -> float:
        self._turn_page()
        held = self._held()
        ours = self._taken - self._spent if held.day == self._day else 0.0
        return self._usd - held.usd + ours

    def _held(self) -> Taken:
        """Today's: of an earlier day nothing counts any more."""
        try:
            held = msgspec.json.decode(self._file.read_bytes(), type=Taken)
        except FileNotFoundError:
            return Taken(self._day, 0.0)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise Damaged(
                f"{self._file} does not say what was spent today ({error}); set it right or remove it"
            ) from error
        return held if held.day >= self._day else Taken(self._day, 0.0)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _unkept(error: Exception) -> Unavailable:
    return Unavailable(f"what was spent today cannot be kept: {error}")
