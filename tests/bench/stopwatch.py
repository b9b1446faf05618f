"""Times a consumer from its first delivery on: joining a group and the first fetch are not counted."""

import time

from tests.bench.alone import RATE, Numbers


class Stopwatch:
    """Counts events; what the first delivery brought was there when the time began, so it is left out."""

    def __init__(self) -> None:
        self.seen = 0
        self._first = 0
        self._started = self._cpu = 0.0

    def count(self, events: int) -> None:
        if not self.seen:
            self._first = events
            self._started, self._cpu = time.perf_counter(), time.process_time()
        self.seen += events

    def numbers(self) -> Numbers:
        """Events a second, and microseconds of CPU an event, of all threads of this process."""
        events = self.seen - self._first
        seconds, cpu = time.perf_counter() - self._started, time.process_time() - self._cpu
        return {RATE: events / seconds, "CPU µs an event": 1e6 * cpu / events}
