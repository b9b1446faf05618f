from pathlib import Path

import pytest

from shared.experiments import live
from shared.experiments.tasks import DataSpec, Task, load
from shared.models.popularity import Popularity
from tests.shared.experiments.test_slices import LINES, task

# Who is asked for what from day 7 on, in the order of the targets: b z 7, c new 7, a new 8; d popular 8, x 9, rare 10.
MET_BY = [1, -1, 1, 4, 2, 1]


def small(folder: Path) -> Task:
    return task(folder, LINES, split="2017-07-20")


def test_an_item_counts_who_met_it_strictly_before(tmp_path: Path) -> None:
    assert live.met_by(small(tmp_path)).tolist() == MET_BY


def test_the_table_follows_the_stream_and_never_runs_ahead_of_it(tmp_path: Path) -> None:
    found = small(tmp_path)
    figures = live.figures(found, Popularity(found.test.space))
    _, unknown, known, first, *_ = figures["mrr"].tolist()
    assert unknown == 0  # new, on the very day it is first met
    assert known == 1  # new, a day later: all else has been met by a
    assert first == 1  # popular, by whom nobody has met anything


def test_what_comes_later_changes_no_earlier_figure(tmp_path: Path) -> None:
    whole = live.figures(small(tmp_path), Popularity("s"))
    (tmp_path / "short").mkdir()
    shorter = task(tmp_path / "short", LINES.rsplit(",", 2)[0], split="2017-07-20")
    cut = live.figures(shorter, Popularity("s"))
    for name, values in cut.items():
        assert values.tolist() == whole[name][: len(values)].tolist()


def test_a_task_without_a_stream_has_no_windows(tmp_path: Path) -> None:
    small(tmp_path)
    found = load(DataSpec("small", protocol="leave_one_out", interactions=tmp_path / "log.txt", text=False))
    assert list(live.windows_of(found)) == []


@pytest.mark.parametrize(("model", "servable"), [(Popularity("s"), True), (None, False), (object(), False)])
def test_only_what_encodes_items_and_users_is_servable(model: object, servable: bool) -> None:
    assert live.is_servable(model) is servable
