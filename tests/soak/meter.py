"""What a process holds, over time, and whether that grows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

MEGABYTE: Final = 1024 * 1024
HOUR: Final = 3600.0
# What a fitted line may rise by over the time it is fitted to: allocators and file systems breathe.
SHARE_MORE: Final = 0.1
BYTES_MORE: Final = 16.0 * MEGABYTE
FILES_MORE: Final = 4.0


@dataclass(frozen=True)
class Sample:
    seconds: float  # since some moment
    memory: float  # bytes in RAM that are the process's own
    files: int  # open descriptors


@dataclass(frozen=True)
class Trend:
    """A straight line through samples: where it begins, and what it rises by in an hour and over all of them."""

    first: float
    an_hour: float
    over_all: float

    def is_flat(self, more: float) -> bool:
        return self.over_all <= max(more, SHARE_MORE * self.first)


def sample(pid: int, seconds: float) -> Sample:
    """Of Linux's /proc. Raises OSError when the process is gone."""
    proc = Path(f"/proc/{pid}")
    rollup = dict(line.split(":", 1) for line in (proc / "smaps_rollup").read_text().splitlines()[1:])
    own = sum(int(rollup[name].split()[0]) for name in ("Private_Clean", "Private_Dirty", "Swap"))
    return Sample(seconds, own * 1024.0, sum(1 for _ in (proc / "fd").iterdir()))


def floor(samples: Sequence[Sample], of: str, parts: int = 12) -> list[Sample]:
    """The lowest sample of each part of the time: allocators take and give back, and a leak lifts what is left."""
    size = max(1, len(samples) // parts)
    runs = [samples[start : start + size] for start in range(0, len(samples), size)]
    return [min(run, key=lambda found: float(getattr(found, of))) for run in runs]


def trend(samples: Sequence[Sample], of: str) -> Trend:
    """Least squares; of two samples or more."""
    times = np.array([found.seconds for found in samples])
    values = np.array([float(getattr(found, of)) for found in samples])
    a_second, _ = np.polyfit(times - times[0], values, 1)
    lasted = float(times[-1] - times[0])
    middle = float(values.mean())
    return Trend(middle - float(a_second) * lasted / 2, float(a_second) * HOUR, float(a_second) * lasted)
