"""tests/soak/meter.py: a leak is a rise, and breathing is none."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.meter import BYTES_MORE, FILES_MORE, HOUR, MEGABYTE, Sample, floor, sample, trend


def line(first: float, a_second: float, count: int = 100) -> list[Sample]:
    return [Sample(10.0 * n, first + 10.0 * n * a_second, 7) for n in range(count)]


@given(st.floats(1.0, 1e9), st.floats(-1e5, 1e5), st.integers(2, 400))
def test_the_trend_of_a_line_is_that_line(first: float, a_second: float, count: int) -> None:
    found = trend(line(first, a_second, count), "memory")
    tolerance = 1e-6 * (first + abs(a_second) * 10 * count)
    assert found.first == pytest.approx(first, abs=tolerance)
    assert found.over_all == pytest.approx(a_second * 10 * (count - 1), abs=tolerance)
    assert found.an_hour == pytest.approx(a_second * HOUR, abs=tolerance * HOUR)


def test_breathing_is_flat_and_a_leak_is_not() -> None:
    breathing = [Sample(n, 200 * MEGABYTE + 30 * MEGABYTE * math.sin(n / 3), 7) for n in range(600)]
    assert trend(breathing, "memory").is_flat(BYTES_MORE)
    leaking = [Sample(s.seconds, s.memory + 0.1 * MEGABYTE * s.seconds, 7 + n // 20) for n, s in enumerate(breathing)]
    assert not trend(leaking, "memory").is_flat(BYTES_MORE)
    assert not trend(leaking, "files").is_flat(FILES_MORE)


def test_memory_and_files_of_a_process_are_what_it_took(tmp_path: Path) -> None:
    code = (
        "import sys; held = bytearray(64 * 2**20); held[::4096] = b'x' * len(held[::4096]);"
        f"files = [open({str(tmp_path / 'f')!r}, 'w') for _ in range(9)]; print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        found = sample(process.pid, 1.0)
        process.communicate()
    assert 64 * MEGABYTE < found.memory < 128 * MEGABYTE
    assert 12 <= found.files <= 20
    with pytest.raises(OSError, match="No such"):
        sample(process.pid, 2.0)
    assert sample(os.getpid(), 0.0).memory > MEGABYTE


def test_what_comes_and_goes_is_not_in_the_floor_and_a_leak_is() -> None:
    breathing = [Sample(float(n), 400.0 * MEGABYTE if n % 7 else 300.0 * MEGABYTE, 9) for n in range(240)]
    assert trend(floor(breathing, "memory"), "memory").is_flat(0.0)
    leaking = [Sample(s.seconds, s.memory + n * MEGABYTE, 9) for n, s in enumerate(breathing)]
    assert trend(floor(leaking, "memory"), "memory").over_all == pytest.approx(239 * MEGABYTE, rel=0.1)
