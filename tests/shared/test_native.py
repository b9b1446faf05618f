"""shared/native.py: work in parts is all of the work, once."""

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.native import spread


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
