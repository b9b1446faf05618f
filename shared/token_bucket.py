"""A token bucket: a burst at once, and a rate over time. Counted in whole numbers, so it never drifts."""

import time
from collections.abc import Callable
from typing import Final

ONE: Final = 10**12  # one call, in thousandths of a call a second times nanoseconds
MILLI: Final = 1000


class TokenBucket:
    """In any t seconds at most burst + rate * t are let through, and what keeps to that is never refused.

    `rate` a second, to a thousandth.
    """

    def __init__(self, rate: float, burst: int, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._rate = round(rate * MILLI)
        self._full = burst * ONE
        self._clock = clock_ns
        self._level, self._at = self._full, clock_ns()

    def take(self) -> float:
        """Let one through and return 0, or return the seconds until one would be."""
        now = self._clock()
        self._level = min(self._full, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < ONE:
            return (ONE - self._level) / self._rate / 1e9
        self._level -= ONE
        return 0.0
