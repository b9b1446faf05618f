"""shared/hardware.py: a thread a core that may be used and no more; memory that is free."""

import os
from pathlib import Path

import pytest

from shared import hardware


@pytest.mark.parametrize(("told", "cores"), [("max 100000", None), ("50000 100000", 0), ("250000 100000", 2)])
def test_a_containers_quota_is_whole_cores(tmp_path: Path, told: str, cores: int | None) -> None:
    limit = tmp_path / "cpu.max"
    limit.write_text(told)
    found = hardware.quota(limit)
    assert found == cores if cores is not None else found > 1_000_000


def test_there_is_one_core_at_least_and_no_more_than_the_process_may_use() -> None:
    assert 1 <= hardware.cores() <= len(os.sched_getaffinity(0))


def test_free_memory_is_the_limit_less_what_the_process_holds(tmp_path: Path) -> None:
    cgroup = tmp_path / "memory.max"
    cgroup.write_text("max\n")
    everything = hardware.free_memory(cgroup=cgroup)
    assert 0 < everything < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert hardware.free_memory(1 << 60, cgroup) <= everything * 1.5, "never more than the machine has available"
    assert hardware.free_memory(1, cgroup) < 0
    cgroup.write_text("4096\n")
    assert hardware.free_memory(cgroup=cgroup) < 0
    assert hardware.free_memory(1 << 60, cgroup) > 0, "what was set goes before what was found"
