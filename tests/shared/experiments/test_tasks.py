import math
import random
import tomllib
from collections import Counter, defaultdict
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events import Event, Interaction, Item, Opinions
from shared.experiments.tasks import DataSpec, Task, load, task_of
from shared.graph.state import ItemNode
from shared.models.dataset import Case, Log
from shared.models.split import Split
from tests.shared.models.worlds import DAY, START, interaction, opinions, tastes

SPACE = "minilm-general-v1"
SPLIT = "2021-03-01"  # of the made-up logs, which begin on 2020-09-13 and last 300 days
SPEC = DataSpec("made-up", archive="none", split=SPLIT)


def log(seed: int = 0) -> list[Event]:
    """A made-up log in the default space's name; its vectors are not of that space, which nothing here looks at."""
    return [msgspec.structs.replace(event, space=SPACE) if hasattr(event, "space") else event for event in tastes(seed)]


def days(seed: int, users: int = 12, items: int = 9) -> list[Event]:
    """Times of day resolution, so that many events of a user are at one time; each with its opinions, line by line.

    Event ids sort otherwise than lines do.
    """
    rng = random.Random(seed)
    found: list[Event] = []
    for line in range(100):
        user, item, ts = f"u{rng.randrange(users)}", f"i{rng.randrange(items)}", START + rng.randrange(6) * DAY
        found.append(interaction(user, item, ts, f"e{rng.random()}"))
        if rng.random() < 0.7:
            said = msgspec.structs.replace(opinions(rng, user, item, ts, space=SPACE), review_id=f"r{line}")
            found.append(said)
    return found


def facts(log_: Log) -> list[Any]:
    return [log_.by_user, log_.by_item, log_.times]


def of_split(split: Split) -> list[Any]:
    return [*facts(split.log), split.items, list(split.held_out)]


def in_file_order(events: list[Event]) -> dict[str, list[Interaction]]:
    """user -> events by (time, line)."""
    of_user: dict[str, list[Interaction]] = defaultdict(list)
    for event in events:
        if isinstance(event, Interaction):
            of_user[event.user_id].append(event)
    return {user: sorted(of_user[user], key=lambda event: event.ts) for user in of_user}


def later(event: Any) -> Any:
    return msgspec.structs.replace(event, ts=event.ts + 1000 * DAY)


# --- by time --------------------------------------------------------------------------------------------


def test_a_fact_of_the_test_moved_into_the_future_changes_nothing_of_what_models_are_fitted_on() -> None:
    events = log()
    task = task_of(SPEC, events)
    moved = task_of(SPEC, [later(e) if e.ts >= task.test.at else e for e in events])
    assert of_split(moved.validation) == of_split(task.validation)
    assert of_split(moved.test) == of_split(task.test)
    assert task.cases != moved.cases


@pytest.mark.parametrize("seed", range(5))
def test_a_fact_moved_into_the_future_changes_no_earlier_case(seed: int) -> None:
    events = log()
    task = task_of(SPEC, events)
    one = random.Random(seed).choice([n for n, e in enumerate(events) if e.ts >= task.test.at])
    ts = events[one].ts
    moved = task_of(SPEC, [later(event) if n == one else event for n, event in enumerate(events)])
    earlier = [case for case in task.cases if case.ts < ts]
    assert earlier == [case for case in moved.cases if case.ts < ts]
    assert earlier


def test_the_parts_of_a_time_split_follow_each_other() -> None:
    task = task_of(SPEC, log())
    first, second = task.validation.at, task.test.at
    assert task.refit
    assert not task.test.held_out
    assert max(ts for items in task.validation.log.by_item.values() for ts, _ in items) < first
    assert max(ts for items in task.test.log.by_item.values() for ts, _ in items) < second
    assert all(first <= case.ts < second for case in task.validation.held_out)
    assert all(second <= case.ts for case in task.cases)
    share = 1 - len(task.validation.log.times) / len(task.test.log.times)
    assert share == pytest.approx(0.1, abs=0.01)
    for split, cases in ((task.validation, task.validation.held_out), (task.test, task.cases)):
        known = {user for user, of_user in split.log.by_user.items() if of_user}
        assert cases
        assert {case.user.user_id for case in cases} <= known
    assert {slot.ts >= second for case in task.cases for slot in case.user.interactions} == {True, False}


def test_users_without_history_before_a_split_are_not_asked_but_told_apart() -> None:
    events = log()
    task = task_of(SPEC, events)
    late = [interaction("late", item, task.test.at + n * DAY) for n, item in enumerate(("i1", "i2"), 1)]
    between = [interaction("between", item, task.test.at - n) for n, item in enumerate(("i1", "i2"), 1)]
    more = task_of(SPEC, [*events, *late, *between])
    assert [case.user.user_id for case in more.newcomers] == ["late", "late"]
    assert more.cases == task.cases
    assert "between" not in {case.user.user_id for case in more.validation.held_out}
    assert "between" in more.test.log.by_user


def test_what_cannot_be_split_by_time_is_refused(tmp_path: Path) -> None:
    (tmp_path / "untimed").write_text("u x\nu y\n")
    with pytest.raises(ValueError, match="no times"):
        load(DataSpec("d", interactions=tmp_path / "untimed"))
    (tmp_path / "timed").write_text("u x 1400000000\n")
    with pytest.raises(ValueError, match="nothing happened before"):
        load(DataSpec("d", interactions=tmp_path / "timed", split="2001-01-01"))
    (tmp_path / "empty").write_text("")
    with pytest.raises(ValueError, match="no interaction"):
        load(DataSpec("d", interactions=tmp_path / "empty"))


# --- the last out ---------------------------------------------------------------------------------------

OUT = changed(SPEC, protocol="leave_one_out")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_last_two_events_in_file_order_and_their_opinions_are_held_out(seed: int, repeats: bool) -> None:
    events = days(seed)
    task = task_of(changed(OUT, repeats=repeats), events)
    log_ = task.validation.log
    assert task.validation is task.test
    reviews = {(e.user_id, e.item_id, e.ts, e.review_id) for e in events if isinstance(e, Opinions)}
    asked = {case.user.user_id: case for case in task.cases}
    for user, of_user in in_file_order(events).items():
        kept = of_user[:-2] if len(of_user) >= 3 else of_user
        held = [fact for _, fact in log_.by_user.get(user, [])]
        assert [f.event_id for f in held if isinstance(f, Interaction)] == [e.event_id for e in kept]
        told = {f.review_id for f in held if isinstance(f, Opinions)}
        out = {(e.item_id, e.ts) for e in of_user[len(kept) :]}
        assert told.isdisjoint(review for u, item, ts, review in reviews if u == user and (item, ts) in out)
        again = of_user[-1].item_id in {e.item_id for e in of_user[:-1]}
        assert (user in asked) == (len(of_user) >= 3 and (repeats or not again))
        if user in asked:
            assert asked[user].targets == (of_user[-1].item_id,)
            history = [slot.event_id for slot in asked[user].user.interactions]
            assert history == [e.event_id for e in of_user[-2::-1]]
    in_items = {fact.review_id for timed in log_.by_item.values() for _, fact in timed if hasattr(fact, "review_id")}
    in_users = {f.review_id for timed in log_.by_user.values() for _, f in timed if isinstance(f, Opinions)}
    assert in_items == in_users
    assert len(log_.times) == sum(isinstance(f, Interaction) for timed in log_.by_user.values() for _, f in timed)


def test_the_history_of_the_test_holds_the_validation_event_and_its_opinions() -> None:
    rng = random.Random(0)
    events: list[Event] = []
    for n, item in enumerate("abcd"):
        events += [interaction("u", item, START + n * DAY), opinions(rng, "u", item, START + n * DAY, space=SPACE)]
    task = task_of(OUT, events)
    [held_out], [asked] = task.validation.held_out, task.cases
    assert [slot.other_id for slot in held_out.user.reviews] == ["b", "a"]
    assert [slot.item_id for slot in asked.user.interactions] == ["c", "b", "a"]
    assert [slot.other_id for slot in asked.user.reviews] == ["c", "b", "a"]
    assert asked.targets == ("d",)


def test_an_opinion_written_before_its_user_met_the_item_is_held_out_with_it() -> None:
    events: list[Event] = [interaction("u", item, START + n * DAY) for n, item in enumerate("abcd")]
    events.append(opinions(random.Random(0), "u", "d", START, space=SPACE))
    task = task_of(OUT, events)
    assert not task.cases[0].user.reviews
    assert not [f for timed in task.test.log.by_user.values() for _, f in timed if isinstance(f, Opinions)]


def test_a_test_event_moved_into_the_future_changes_only_when_it_is_asked() -> None:
    events = log()
    task = task_of(OUT, events)
    last = {user: of_user[-1].event_id for user, of_user in in_file_order(events).items()}
    of_test = {(e.user_id, e.item_id) for e in events if isinstance(e, Interaction) and last[e.user_id] == e.event_id}
    moved = task_of(
        OUT,
        [later(e) if (getattr(e, "user_id", ""), e.item_id) in of_test else e for e in events],  # type: ignore[union-attr]
    )
    assert of_split(moved.validation) == of_split(task.validation)

    def asked(of: Task) -> list[Case]:
        return sorted((changed(case, ts=0.0) for case in of.cases), key=lambda case: case.user.user_id)

    assert asked(moved) == asked(task)


def test_the_catalogue_is_every_item_and_one_that_is_only_held_out_is_empty() -> None:
    events: list[Event] = [interaction("u", item, START + n * DAY) for n, item in enumerate("abcd")]
    events.append(Item(item_id="d", ts=START, title="told of"))
    events.append(Item(item_id="e", ts=START, title="never met"))
    split = task_of(OUT, events).test
    assert [node.item_id for node in split.items] == list("abcde")
    assert split.items[2] == ItemNode("c")
    assert split.items[3].facts is not None
    assert not split.items[3].popularity_total
    assert split.counts.tolist() == [1, 1, 0, 0, 0]
    only_met = task_of(changed(OUT, only_met=True), events).test
    assert [node.item_id for node in only_met.items] == list("abcd")


# --- sampled --------------------------------------------------------------------------------------------


def sampled(events: list[Event], **more: Any) -> Task:
    return task_of(changed(SPEC, protocol="sampled", **more), events)


def test_negatives_are_distinct_items_that_the_user_never_met() -> None:
    events = log()
    task = sampled(events, negatives=40)
    assert task.negatives is not None
    assert len(task.negatives) == len(task.cases) == 120
    of_user = {user: {e.item_id for e in met} for user, met in in_file_order(events).items()}
    ids = [node.item_id for node in task.test.items]
    for case, rows in zip(task.cases, task.negatives, strict=True):
        assert len(set(rows)) == 40
        assert of_user[case.user.user_id].isdisjoint(ids[row] for row in rows)


def test_negatives_are_uniform_and_follow_the_seed() -> None:
    events = log()
    task = sampled(events, negatives=20)
    again, other = sampled(events, negatives=20), sampled(events, negatives=20, seed=1)
    assert task.negatives == again.negatives
    assert task.negatives != other.negatives
    assert task.negatives is not None
    drawn = Counter(row for rows in task.negatives for row in rows)
    counts = np.array([drawn[row] for row in range(60)])  # each of 60 items is outside of 104 of 120 sequences
    assert abs(counts - 40).max() < 5 * math.sqrt(40)


def test_sampled_asks_everybody_and_for_items_met_before_too() -> None:
    events: list[Event] = [interaction("u", item, START + n * DAY) for n, item in enumerate("aba")]
    events += [interaction("v", item, START + n * DAY) for n, item in enumerate("cd")]
    task = sampled(events, negatives=2)
    assert [case.targets for case in task.cases] == [("a",)]
    assert task.test.repeats
    assert task.figures["targets_met_before"] == 1.0
    assert task.negatives is not None
    assert sorted(task.negatives[0]) == [2, 3]
    with pytest.raises(ValueError, match="too few"):
        sampled(events, negatives=3)


# --- from a file ----------------------------------------------------------------------------------------


def test_a_spec_is_read_from_toml_and_a_wrong_one_is_told() -> None:
    table = tomllib.loads('name = "m"\nreviews = "m.json.gz"\nsplit = 2014-02-07\nvalidation = 0.2\nrepeats = true')
    spec = DataSpec.of(table, Path("data"))
    assert (spec.reviews, spec.split, spec.validation, spec.repeats) == (
        Path("data/m.json.gz"),
        "2014-02-07",
        0.2,
        True,
    )
    assert DataSpec.of({"name": "m", "archive": "s3://bucket/log", "split": 0.7}).split == "0.7"
    for wrong, told in (
        ({"revews": "x"}, "revews"),
        ({}, "none"),
        ({"reviews": "x", "archive": "y"}, "reviews and archive"),
        ({"archive": "y", "protocol": "leave_two_out"}, "leave_two_out"),
        ({"archive": "y", "validation": 0.7}, "validation"),
        ({"archive": "y", "split": "last week"}, "last week"),
        ({"archive": "y", "repeats": "yes"}, "repeats"),
        ({"archive": "y", "negatives": 2.5}, "negatives"),
        ({"archive": "y", "names": "x"}, "go together"),
    ):
        with pytest.raises(ValueError, match=told):
            DataSpec.of({"name": "m", **wrong})
