from pathlib import Path

import numpy as np

from shared.experiments.slices import head_users, slices
from shared.experiments.tasks import DataSpec, Task, load
from tests.shared.experiments.small import START


def task(folder: Path, lines: str, **told: object) -> Task:
    """`lines`: "user item day, ..."."""
    rows = [line.split() for line in lines.split(",")]
    text = "".join(f"{user} {item} {START + int(day) * 86_400}\n" for user, item, day in rows)
    (folder / "log.txt").write_text(text)
    return load(DataSpec("small", interactions=folder / "log.txt", text=False, **told))  # type: ignore[arg-type]


# Trained on days 0 to 6: popular is met by 4, rare by 1. Asked from day 7 on; d comes then, new is met then.
LINES = """a popular 0,a rare 1,a x 2,a y 3,a z 4,b popular 1,b x 2,c popular 5,e popular 6,
 b z 7,c new 7,a new 8,d popular 8,d x 9,d rare 10"""


def asked(folder: Path) -> tuple[Task, list[tuple[str, str]]]:
    found = task(folder, LINES, split="2017-07-20")
    cases = [*found.cases, *found.newcomers]
    return found, [(case.user.user_id, target) for case in cases for target in case.targets]


def who(folder: Path, name: str) -> set[tuple[str, str]]:
    found, targets = asked(folder)
    return {target for target, kept in zip(targets, slices(found).of[name], strict=True) if kept}


def test_overall_asks_who_was_met_before_the_split(tmp_path: Path) -> None:
    assert who(tmp_path, "overall") == {("b", "z"), ("c", "new"), ("a", "new")}


def test_users_are_grouped_by_their_events_at_ranking_time_newcomers_among_them(tmp_path: Path) -> None:
    assert who(tmp_path, "user_events_0") == {("d", "popular")}
    assert who(tmp_path, "user_events_1") == {("d", "x"), ("c", "new")}
    assert who(tmp_path, "user_events_2") == {("d", "rare"), ("b", "z")}
    assert "user_events_3" not in slices(asked(tmp_path)[0]).of


def test_items_are_grouped_by_how_many_trained_with_them(tmp_path: Path) -> None:
    assert who(tmp_path, "item_events_0") == {("c", "new"), ("a", "new")}
    assert who(tmp_path, "item_events_1") == {("b", "z")}


def test_head_and_tail_part_the_overall_slice(tmp_path: Path) -> None:
    found = slices(asked(tmp_path)[0]).of
    for kind in ("users", "items"):
        head = found.get(f"head_{kind}", np.zeros(len(found["overall"]), np.bool_))
        assert not (head & found[f"tail_{kind}"]).any()
        assert ((head | found[f"tail_{kind}"]) == found["overall"]).all()


def test_head_users_are_those_with_the_most_training_events(tmp_path: Path) -> None:
    found, _ = asked(tmp_path)
    assert head_users(found) == {"a"}
    assert who(tmp_path, "head_users") == {("a", "new")}


def test_targets_that_were_met_before_are_told_apart_where_they_are_asked(tmp_path: Path) -> None:
    lines = ",".join(f"{user} {item} {n}" for user in "ab" for n, item in enumerate(("p", "q", "r", "p")))
    found = task(tmp_path, lines + ",c p 0,c q 1,c r 2", protocol="leave_one_out", repeats=True)
    marked = slices(found)
    kept = dict(zip(marked.users, marked.of["not_met_before"], strict=True))
    assert kept == {"a": False, "b": False, "c": True}
