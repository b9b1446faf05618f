import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.events import Event
from shared.graph.fold import fold_user
from shared.graph.state import UserState
from shared.models import sknn
from shared.models.dataset import cases, read_log
from shared.models.evaluation import evaluate
from shared.models.fitting import Run
from shared.models.sknn import SKNN, Config
from shared.models.split import FOREVER, Split
from tests.shared.models.worlds import DAY, SCHEMA, SPACE, START, interaction, tastes

HISTORIES = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=5), min_size=1, max_size=9)


def split_of(met: Sequence[Sequence[int]], **more: object) -> Split:
    """User u meets their items day by day; later users were seen later."""
    events: list[Event] = [
        interaction(f"u{u}", f"i{i}", START + (10 * u + at) * DAY)
        for u, of in enumerate(met)
        for at, i in enumerate(of)
    ]
    return Split(read_log(events, SPACE), SPACE, SCHEMA, **more)  # type: ignore[arg-type]


def user(items: Sequence[int], user_id: str = "me") -> UserState:
    met = [interaction(user_id, f"i{i}", START + (1000 + at) * DAY) for at, i in enumerate(items)]
    return fold_user(UserState(user_id), met)


def scores(split: Split, who: UserState, k: int = 100, sample: int = 1000) -> dict[str, float]:
    found = SKNN(split.row_of, split.sequences, split.clock, k, sample).score([who])[0]
    return {item: float(found[row]) for item, row in split.row_of.items()}


@given(HISTORIES, st.lists(st.integers(0, 9), max_size=5))
def test_it_is_the_formula(met: list[list[int]], mine: list[int]) -> None:
    split = split_of(met)
    known = {i for i in mine if f"i{i}" in split.row_of}
    expected = dict.fromkeys(split.row_of, 0.0)
    for of in map(set, met):
        for i in of:
            expected[f"i{i}"] += len(of & known) / math.sqrt(len(of) * max(1, len(known)))
    assert scores(split, user(mine)) == pytest.approx(expected, abs=1e-5)


def test_only_the_most_similar_count() -> None:
    split = split_of([[0, 1, 2], [0, 3], [0, 1, 4, 5, 6]])
    found = scores(split, user([0, 1]), k=1)
    assert found["i2"] == pytest.approx(2 / math.sqrt(6))
    assert found["i3"] == found["i4"] == 0.0


def test_users_are_sought_among_those_seen_last() -> None:
    split = split_of([[0, 1], [0, 2, 3], [0, 4, 5, 6]])
    found = scores(split, user([0]), sample=2)
    assert found["i1"] == 0.0  # the most similar, but seen longest ago
    assert found["i2"] > found["i4"] > 0.0


def test_without_a_clock_nobody_is_newer() -> None:
    split = split_of([[0, 1], [0, 2], [0, 3]], clock=False)
    assert scores(split, user([0]), sample=2)["i1"] > 0.0


def test_nobody_is_their_own_neighbour() -> None:
    split = split_of([[0, 1, 2], [0, 3]])
    assert scores(split, user([0, 1, 2], "u0"))["i1"] == 0.0
    assert scores(split, user([0, 1, 2], "other"))["i1"] > 0.0


def test_what_was_met_can_be_recommended_again() -> None:
    split = split_of([[0, 1], [0, 1], [0, 2]], repeats=True)
    found = scores(split, user([0, 1]))
    assert found["i0"] > found["i1"] > found["i2"] > 0.0


def test_who_shares_nothing_with_anybody_ties_everything() -> None:
    split = split_of([[0, 1], [2]])
    assert set(scores(split, user([])).values()) == {0.0}
    assert set(scores(split, user([9])).values()) == {0.0}
    assert SKNN(split.row_of, split.sequences, True, 5, 5).score([]).shape == (0, 3)


def test_a_fit_chooses_how_many_and_a_refit_keeps_it() -> None:
    events = tastes(users=80, items=40, each=6)
    late = START + 220 * DAY
    log = read_log([event for event in events if event.ts < late], SPACE)
    held_out = [case for case in cases(read_log(events, SPACE), late, FOREVER) if case.user.interactions]
    split = Split(log, SPACE, SCHEMA, late, held_out)
    reached = {}
    for k in (1, 5, 50):
        only = sknn.fit(split, Config((k,)), Run())
        assert only.chosen == {"neighbours": k}
        reached[k] = evaluate(only.scorer, held_out, split.row_of, split.counts.tolist())["ndcg@10"]
    chosen = sknn.fit(split, Config((1, 5, 50)), Run()).chosen
    assert reached[chosen["neighbours"]] == max(reached.values()) > min(reached.values())
    again = sknn.fit(split, Config((50, 5)), Run(chosen={"neighbours": 1}))
    assert torch.equal(again.scorer(held_out[:4]), sknn.fit(split, Config((1,)), Run()).scorer(held_out[:4]))
    assert sknn.fit(Split(log, SPACE, SCHEMA), Config((5, 50)), Run()).chosen == {"neighbours": 5}
