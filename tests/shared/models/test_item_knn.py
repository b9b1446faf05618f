import math

import pytest
import torch

from shared.graph.fold import fold_user
from shared.graph.state import UserState
from shared.models import item_knn
from shared.models.dataset import cases, read_log
from shared.models.evaluation import evaluate
from shared.models.fitting import Run
from shared.models.item_knn import MAX_ITEMS, Config, ItemKNN
from shared.models.split import FOREVER, Split
from tests.shared.models.worlds import DAY, SCHEMA, SPACE, START, interaction, tastes

MET = [["a", "b"], ["a", "b", "c"], ["a", "d", "d"], ["a"]]


def user(*items: str) -> UserState:
    met = [interaction("u", item, START + at * DAY) for at, item in enumerate(items)]
    return fold_user(UserState("u"), met)


def split_of(**more: object) -> Split:
    events = [interaction(f"u{u}", i, START + at * DAY) for u, of in enumerate(MET) for at, i in enumerate(of)]
    return Split(read_log(events, SPACE), SPACE, SCHEMA, **more)  # type: ignore[arg-type]


def test_it_is_the_sum_of_the_cosines_to_what_was_met() -> None:
    knn = ItemKNN("abcd").fit(MET)
    ab, bc = 2 / math.sqrt(8), 1 / math.sqrt(2)
    assert knn.score([user("b"), user("b", "a", "b")]).tolist() == [
        pytest.approx([ab, 0, bc, 0]),
        pytest.approx([ab, ab, bc + 0.5, 0.5]),
    ]
    assert not knn.score([user(), user("unheard-of")]).any()
    assert ItemKNN("abcd", k=1).fit(MET).score([user("a")]).count_nonzero() == 1


def test_shrinkage_takes_from_what_few_have_met() -> None:
    plain, shrunk = (ItemKNN("abcd", shrink=h).fit(MET).score([user("b")])[0] for h in (0.0, 4.0))
    assert plain.tolist() == pytest.approx([1 / math.sqrt(2), 0, 1 / math.sqrt(2), 0])  # two met a, one met c
    assert shrunk.tolist() == pytest.approx([2 / (math.sqrt(8) + 4), 0, 1 / (math.sqrt(2) + 4), 0])


def test_where_items_are_asked_again_each_is_its_own_neighbour() -> None:
    once, again = (item_knn.fit(split_of(repeats=r), Config((2,), (0.0,)), Run()).scorer for r in (False, True))
    case = cases(split_of().log, START + DAY, FOREVER)[0]
    assert [slot.item_id for slot in case.user.interactions] == ["a"]
    assert once([case])[0][0] == 0.0
    assert again([case])[0][0] == 1.0
    assert torch.equal(once([case])[0][1:], again([case])[0][1:])


def test_a_fit_chooses_and_a_refit_keeps_it() -> None:
    events = tastes(users=80, items=40, each=6)
    late = START + 220 * DAY
    log = read_log([event for event in events if event.ts < late], SPACE)
    held_out = [case for case in cases(read_log(events, SPACE), late, FOREVER) if case.user.interactions]
    split = Split(log, SPACE, SCHEMA, late, held_out)
    reached = {}
    for setting in ((1, 0.0), (20, 0.0), (1, 9.0), (20, 9.0)):
        only = item_knn.fit(split, Config(setting[:1], setting[1:]), Run())
        reached[setting] = evaluate(only.scorer, held_out, split.row_of, split.counts.tolist())["ndcg@10"]
    chosen = item_knn.fit(split, Config((1, 20), (0.0, 9.0)), Run()).chosen
    best = reached[chosen["neighbours"], chosen["shrink"]]
    assert best == max(reached.values()) > min(reached.values())
    again = item_knn.fit(split, Config((7,), (1.0,)), Run(chosen={"neighbours": 1, "shrink": 9.0}))
    kept = item_knn.fit(split, Config((1,), (9.0,)), Run())
    assert torch.equal(again.scorer(held_out[:4]), kept.scorer(held_out[:4]))


def test_too_large_a_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match=str(MAX_ITEMS)):
        ItemKNN([str(at) for at in range(MAX_ITEMS + 1)])
