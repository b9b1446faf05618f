"""Which cores a process runs on, and what CPU it has used."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.running import children


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """This process, and with all their threads those that it starts meanwhile, run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def split() -> tuple[set[int], set[int]]:
    """One core for the server that is measured, and the rest for everything else; the same where there is but one."""
    first, *rest = sorted(os.sched_getaffinity(0))
    return {first}, set(rest) or {first}


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process and of those that it has started (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(child) for child in children(pid))


def busy_seconds(cores: set[int]) -> float:
    """What these cores have spent on anything, and what others took of them (proc_stat(5))."""
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    of = {f"cpu{core}" for core in cores}
    user_nice_system, irq_softirq_steal = slice(1, 4), slice(6, 9)
    spent = [sum(map(int, line[user_nice_system] + line[irq_softirq_steal])) for line in lines if line[0] in of]
    return sum(spent) / os.sysconf("SC_CLK_TCK")
