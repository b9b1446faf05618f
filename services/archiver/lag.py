"""How far the archive is behind Kafka, in records and in seconds, and whether retention comes near."""

import time
from collections.abc import Mapping

from services.archiver import metrics
from services.archiver.log_reader import Place
from shared import logs

WARN_EVERY_SECONDS = 60.0
log = logs.get(__name__)


class Lag:
    """Call `observe` now and then. Seconds are those that the oldest record not archived yet has been waiting."""

    def __init__(self, retention_seconds: float, warning_share: float) -> None:
        self._retention = retention_seconds
        self._warn_at = retention_seconds * warning_share
        self._behind_since: dict[Place, float] = {}
        self._warned_at = 0.0
        metrics.RETENTION_SECONDS.set(retention_seconds)

    def observe(
        self, ends: Mapping[Place, int], archived: Mapping[Place, int], oldest: Mapping[Place, float], now: float
    ) -> None:
        """`oldest`: append time of the oldest record that is read but not archived, where there is one."""
        records: dict[str, int] = {}
        seconds: dict[str, float] = {}
        for place, end in ends.items():
            behind = max(end - archived.get(place, 0), 0)
            records[place[0]] = records.get(place[0], 0) + behind
            seconds[place[0]] = max(seconds.get(place[0], 0.0), self._waiting(place, behind, oldest, now))
        for topic, count in records.items():
            metrics.LAG_RECORDS.labels(topic).set(count)
            metrics.LAG_SECONDS.labels(topic).set(seconds[topic])
        self._warn(seconds)

    def _waiting(self, place: Place, behind: int, oldest: Mapping[Place, float], now: float) -> float:
        if not behind:
            self._behind_since.pop(place, None)
            return 0.0
        # What has not been read has no known append time; it waits at least since it was first seen to be there.
        since = self._behind_since.setdefault(place, now)
        return max(now - min(oldest.get(place, since), since), 0.0)

    def _warn(self, seconds: Mapping[str, float]) -> None:
        late = {topic: round(waited) for topic, waited in seconds.items() if waited > self._warn_at}
        if late and time.monotonic() - self._warned_at > WARN_EVERY_SECONDS:
            self._warned_at = time.monotonic()
            log.warning(
                "the archive is so far behind that Kafka's retention comes near; records would be lost",
                seconds_behind=late, retention_seconds=self._retention,
            )  # fmt: skip
