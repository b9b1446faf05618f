import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events import Event, Interaction
from shared.graph.state import ItemNode
from shared.models.dataset import cases, items_before, read_log
from shared.models.features import content_of
from shared.models.split import Split, histories
from tests.shared.models.test_dataset import logs
from tests.shared.models.worlds import SCHEMA, SPACE, START, interaction, semantics, tastes, vector

LOGS = logs()


def split_of(events: Sequence[Event], **more: Any) -> Split:
    return Split(read_log(events, SPACE), SPACE, SCHEMA, **more)


@settings(max_examples=60, deadline=None)
@given(LOGS, st.booleans())
def test_sequences_ask_what_the_training_cases_ask(events: list[Event], repeats: bool) -> None:
    split = split_of(events, repeats=repeats)
    s = split.sequences
    asked = set()
    for at, row in zip(s.asked_at.tolist(), s.asked_for.tolist(), strict=True):
        user = int(np.searchsorted(s.offsets, at, side="right")) - 1
        asked.add((s.users[user], tuple(s.items[s.offsets[user] : at + 1].tolist()), row))
    expected = {
        (case.user.user_id, tuple(split.row_of[slot.item_id] for slot in case.user.interactions[::-1]), row)
        for case in split.training
        if case.user.interactions  # who has no history yet is asked nothing
        for row in [split.row_of[target] for target in case.targets]
    }
    assert asked == expected
    assert len(asked) == len(s.asked_at)
    assert s.asked_at.tolist() == sorted(s.asked_at.tolist())


@settings(max_examples=40, deadline=None)
@given(LOGS)
def test_counts_are_distinct_users_of_each_row(events: list[Event]) -> None:
    split = split_of(events)
    met = {
        (f.user_id, f.item_id) for fs in split.log.by_user.values() for _, f in fs if isinstance(f, Interaction)
    }  # fmt: skip
    expected = [sum(item == node.item_id for _, item in met) for node in split.items]
    assert split.counts.tolist() == expected


def test_a_question_never_has_an_event_of_its_own_time_before_it() -> None:
    day = [interaction("u", item, START + n // 3, f"e{n}") for n, item in enumerate("abcdefghi")]
    s = split_of(day).sequences
    assert [s.times[at] < START + 1 + n // 3 for n, at in enumerate(s.asked_at)] == [True] * 6
    assert s.asked_at.tolist() == [2, 2, 2, 5, 5, 5]
    assert s.asked_for.tolist() == [3, 4, 5, 6, 7, 8]


def test_repeats_are_asked_only_where_the_split_says_so() -> None:
    again = [interaction("u", item, START + n) for n, item in enumerate("abab")]
    assert split_of(again).sequences.asked_for.tolist() == [1]
    assert split_of(again, repeats=True).sequences.asked_for.tolist() == [1, 0, 1]


def test_the_catalogue_is_what_was_known_before_and_what_it_is_told_to_know() -> None:
    events = [interaction("u", "b", START), interaction("u", "c", START + 5)]
    split = split_of(events, at=START + 5, nodes={"a": ItemNode("a"), "b": ItemNode("b")})
    assert [node.item_id for node in split.items] == ["a", "b"]
    assert split.items[1].popularity_total, "what the log knows counts more"
    assert split.row_of == {"a": 0, "b": 1}


def test_content_is_each_items_own() -> None:
    rng = random.Random(0)
    split = split_of([semantics("a", vector(rng, 12)), interaction("u", "b", START)])
    assert torch.equal(split.content[0], torch.from_numpy(content_of(split.items[0], 12)))
    assert not split.content[1].any()
    assert split.content[0].norm().item() == pytest.approx(1)
    assert split_of([]).content.shape == (0, 12)


def test_histories_are_oldest_first_and_padded_behind() -> None:
    split = split_of([interaction("u", item, START + n) for n, item in enumerate("abcd")])
    rows, real = histories(split.training, split.row_of, 2)
    assert rows.tolist() == [[0, 0], [0, 0], [0, 1], [1, 2]]
    assert real.sum(1).tolist() == [0, 1, 2, 2]
    assert histories([], split.row_of, 2)[0].shape == (0, 1)


@settings(max_examples=40, deadline=None)
@given(LOGS, st.integers(0, 8))
def test_a_log_cut_at_a_time_is_what_the_whole_log_knew_then(events: list[Event], after: int) -> None:
    whole, ts = read_log(events, SPACE), START + after
    cut = whole.until(ts)
    assert items_before(cut, math.inf) == items_before(whole, ts)
    assert cases(cut, -math.inf, math.inf) == cases(whole, -math.inf, ts)
    assert cut.times == [t for t in whole.times if t < ts]
    assert all(cut.by_user.values())
    assert all(cut.by_item.values())


def test_cutting_a_log_leaves_it_whole() -> None:
    whole, again = read_log(tastes(), SPACE), read_log(tastes(), SPACE)
    whole.until(whole.times[10])
    assert (whole.by_user, whole.by_item, whole.times) == (again.by_user, again.by_item, again.times)
