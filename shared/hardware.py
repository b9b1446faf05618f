"""What this machine has: in words, for figures, how many threads are of use, and how much memory is free."""

import os
import platform
import sys
from functools import cache
from pathlib import Path


@cache
def cpu() -> str:
    """The processor's model and the number of cores that the system has."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def cores() -> int:
    """How many cores this process may use: by affinity, and by the quota of its control group (v2) where it has one."""
    return max(1, min(len(os.sched_getaffinity(0)), quota()))


def quota(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Whole cores that a container's quota gives; a thread more would wait for the next period."""
    told = limit.read_text().split() if limit.exists() else ["max"]
    return sys.maxsize if told[0] == "max" else int(told[0]) // int(told[1])


def free_memory(limit: int = 0, cgroup: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes that this process may still take, and the machine has available; negative where it holds too many already.

    `limit`: how many it may hold; 0: what its control group (v2) says, or all that the machine has.
    """
    told = cgroup.read_text().strip() if cgroup.exists() else "max"
    page = os.sysconf("SC_PAGE_SIZE")
    most = limit or (page * os.sysconf("SC_PHYS_PAGES") if told == "max" else int(told))
    held = page * int(Path("/proc/self/statm").read_text().split()[1])
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    available = next(1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:")
    return min(most - held, available)
