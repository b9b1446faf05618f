from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.trainer.settings import TrainerSettings
from shared.models.dataset import share_time, split_time


def test_a_day_is_the_last_of_the_training() -> None:
    assert split_time("2014-02-07", []) == datetime(2014, 2, 8, tzinfo=UTC).timestamp()


@given(st.lists(st.integers(0, 20), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_a_share_keeps_events_of_one_time_together(times: list[int], share: float) -> None:
    ordered = sorted(float(t) for t in times)
    split = share_time(share, ordered)
    before = [t for t in ordered if t < split]
    assert len(before) >= share * len(ordered) - 1e-6
    assert len([t for t in before if t < before[-1]]) < share * len(ordered)


@pytest.mark.parametrize("split", ["0", "1", "-0.2", "yesterday", "2014-02-30", ""])
def test_a_split_that_is_none_is_refused(split: str) -> None:
    with pytest.raises(ValidationError, match="split must be a day"):
        TrainerSettings(split=split)
