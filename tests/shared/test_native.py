"""shared/native.py: work in parts is all of the work, once; what is compiled is of the sources that there are."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.native import MARK, kept_in, spread


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 50), least=st.integers(1, 9), threads=st.integers(1, 4))
def test_every_index_is_worked_on_once_and_no_part_is_smaller_than_is_worth_it(
    count: int, least: int, threads: int
) -> None:
    torch.set_num_threads(threads)
    done: list[range] = []
    spread(lambda start, stop: done.append(range(start, stop)), count, least)
    assert sorted(at for part in done for at in part) == list(range(count))
    assert len(done) <= threads
    assert len(done) == 1 or all(len(part) >= least for part in done)


def test_what_a_part_raises_is_raised_and_parts_run_beside_each_other() -> None:
    torch.set_num_threads(2)
    together = threading.Barrier(2)

    def work(start: int, stop: int) -> None:
        together.wait(30)
        if start:
            raise ValueError("the second part")

    with pytest.raises(ValueError, match="the second part"):
        spread(work, 2, 1)


def test_compiled_code_is_kept_apart_when_anything_that_is_compiled_has_changed_and_only_then(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    caller, called, other = package / "caller.py", package / "inner" / "called.py", package / "other.py"
    caller.write_bytes(MARK + b" native")
    called.write_bytes(MARK + b" native\none = 1")
    other.write_bytes(b"two = 2")
    before = kept_in([package], tmp_path)
    assert before.parent == tmp_path
    other.write_bytes(b"two = 3")
    assert kept_in([package], tmp_path) == before
    called.write_bytes(MARK + b" native\none = 2")
    assert kept_in([package], tmp_path) != before
