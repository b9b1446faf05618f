import gzip
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.events import Event, Interaction
from shared.graph.fold import fold_user
from shared.graph.state import UserState
from shared.models.dataset import Case, Log, cases, items_before, read_log
from shared.models.evaluation import (
    BATCH,
    Ranking,
    Result,
    _figures,
    evaluate,
    gini,
    offline,
    rank,
    ranking_metrics,
    servable,
    with_history,
)
from shared.models.item_knn import ItemKNN
from shared.models.popularity import Popularity
from tests.shared.models.worlds import SPACE, START, interaction

MUSIC = Path("../shared/data/amazon2014_musical_instruments/reviews_Musical_Instruments_5.json.gz")
SPLIT = 1_391_817_600.0  # 2014-02-08T00:00:00Z
ROWS = {"a": 0, "b": 1, "c": 2, "d": 3}


def case(history: str, targets: str, user: str = "u") -> Case:
    facts = [interaction(user, item, START + n) for n, item in enumerate(history)]
    return Case(START + 100, fold_user(UserState(user), facts), tuple(targets))


def measured(scores: list[float], *found: Case) -> Result:
    return evaluate(lambda batch: torch.tensor([scores] * len(batch)), found, ROWS, [4, 3, 2, 1])


def test_a_target_ranks_below_what_outscores_it() -> None:
    got = measured([4.0, 3.0, 2.0, 1.0], case("", "c"))
    assert got["hr@10"] == 1.0
    assert got["ndcg@10"] == pytest.approx(1 / math.log2(4))
    assert got["mrr"] == pytest.approx(1 / 3)


def test_items_of_the_history_are_masked() -> None:
    assert measured([4.0, 3.0, 2.0, 1.0], case("ab", "c"))["ndcg@10"] == 1.0


def test_a_cold_target_counts_as_a_miss() -> None:
    got = measured([4.0, 3.0, 2.0, 1.0], case("", "a"), case("", "z"))
    assert got["hr@20"] == 0.5
    assert got["targets"] == 2


def test_targets_are_parted_into_head_and_tail_by_training_count() -> None:
    got = measured([4.0, 3.0, 2.0, 1.0], case("", "a"), case("", "d"))
    assert (got.head_items["mrr"], got.tail_items["mrr"]) == (1.0, 0.25)
    assert (got.head_items["targets"], got.tail_items["targets"]) == (1, 1)


@given(st.integers(0, 30), st.integers(1, 6))
def test_ties_count_as_the_mean_over_all_orders(above: int, ties: int) -> None:
    expected = []
    for order in itertools.permutations(range(ties)):
        rank = above + 1 + order.index(0)
        expected.append((rank <= 10, (rank <= 20) / math.log2(rank + 1), 1 / rank))
    got = ranking_metrics(above, ties)
    for value, name in zip(zip(*expected, strict=True), ("hr@10", "ndcg@20", "mrr"), strict=True):
        assert got[name] == pytest.approx(sum(value) / len(value))


def test_a_model_that_scores_all_alike_is_at_chance() -> None:
    assert measured([1.0] * 4, case("", "a"))["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_users_without_a_history_before_the_split_are_not_asked() -> None:
    found = [case("", "a", "new"), case("a", "b", "old")]
    assert with_history(found, START + 50) == [found[1]]
    assert with_history(found, START) == []


def ranked(scores: list[list[float]], found: Sequence[Case], **told: object) -> Ranking:
    return rank(lambda batch: torch.tensor(scores)[: len(batch)], found, ROWS, **told)  # type: ignore[arg-type]


def test_where_repeats_are_asked_nothing_is_masked() -> None:
    found = [case("a", "a", "u"), case("a", "b", "v")]
    scores = [[4.0, 3.0, 2.0, 1.0]] * 2
    assert ranked(scores, found, repeats=True).figures["mrr"].tolist() == [1.0, 0.5]
    assert ranked(scores, found).figures["mrr"].tolist() == [0.0, 1.0]


def test_among_negatives_only_these_compete_and_the_target_is_no_rival_of_itself() -> None:
    got = ranked([[4.0, 3.0, 3.0, 1.0]] * 2, [case("", "cb"), case("", "d")], negatives=[[3, 2], [2, 3], [0]])
    assert got.row.tolist() == [2, 1, 3]
    assert got.case.tolist() == [0, 0, 1]
    assert got.figures["mrr"].tolist() == pytest.approx([1.0, 0.75, 0.5])  # b ties with c


def test_negatives_stay_with_their_targets_over_all_batches() -> None:
    found = [case("", "cb" if n % 2 else "d", f"u{n}") for n in range(3 * BATCH)]
    targets = [(n, target) for n, of in enumerate(found) for target in of.targets]
    others = {"b": [0, 2, 3], "c": [3], "d": [0, 1]}  # b comes second, c first, d third
    got = ranked([[4.0, 3.0, 2.0, 1.0]] * BATCH, found, negatives=[others[target] for _, target in targets])
    expected = [{"b": 1 / 2, "c": 1.0, "d": 1 / 3}[target] for _, target in targets]
    assert got.figures["mrr"].tolist() == pytest.approx(expected)


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=5))
def test_all_other_items_as_negatives_are_the_full_ranking(scores: list[list[int]]) -> None:
    found = [case("", "abcd", f"u{n}") for n in range(len(scores))]
    others = [[other for other in range(4) if other != row] for _ in scores for row in range(4)]
    floats = [[float(score) for score in of] for of in scores]
    among, full = ranked(floats, found, negatives=others), ranked(floats, found)
    for name, values in full.figures.items():
        assert among.figures[name].tolist() == values.tolist()


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=20))
def test_figures_of_many_targets_are_those_of_each(found: list[tuple[int, int]]) -> None:
    above, ties = np.array(found).T
    together = _figures(above, ties)
    for at, (a, t) in enumerate(found):
        ranks = range(a + 1, a + t + 1)
        assert together["mrr"][at] == pytest.approx(sum(1 / rank for rank in ranks) / t)
        assert together["hr@20"][at] == pytest.approx(sum(rank <= 20 for rank in ranks) / t)
        assert together["ndcg@10"][at] == pytest.approx(sum(1 / math.log2(r + 1) for r in ranks if r <= 10) / t)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        ranked([[math.nan, 1.0, 1.0, 1.0]], [case("", "a")])


def listed(scores: list[list[float]]) -> Ranking:
    """Over a catalogue of 40 items, of which lists hold 10."""
    rows = {f"i{n}": n for n in range(40)}
    found = [Case(START, UserState(f"u{n}"), ("i0",)) for n in range(len(scores))]
    return rank(lambda batch: torch.tensor(scores)[: len(batch)], found, rows)


def test_lists_that_are_all_the_same_cover_what_they_hold_and_are_as_unequal_as_can_be() -> None:
    got = listed([[float(-n) for n in range(40)]] * 3)
    assert got.coverage == 0.25
    assert got.gini == pytest.approx(0.75)


def test_lists_that_share_nothing_cover_all_and_are_equal() -> None:
    got = listed([[float(n // 10 == of) + n / 100 for n in range(40)] for of in range(4)])
    assert (got.coverage, got.gini) == pytest.approx((1.0, 0.0))


def test_tied_items_share_the_places_of_a_list() -> None:
    got = listed([[1.0] * 40] * 2)
    assert got.coverage == pytest.approx(1 - 0.75**2)  # each list holds an item with probability 1/4
    assert got.gini == pytest.approx(0.0)


@pytest.mark.parametrize(("times", "gini_is"), [([1.0, 1.0, 1.0], 0.0), ([0.0, 0.0, 1.0], 2 / 3), ([1.0, 3.0], 0.25)])
def test_gini_as_in_the_textbook(times: list[float], gini_is: float) -> None:
    assert gini(np.array(times)) == pytest.approx(gini_is)


def test_masked_items_are_never_listed() -> None:
    rows = {f"i{n}": n for n in range(12)}
    facts = [interaction("u", f"i{n}", START + n) for n in range(6)]
    found = [Case(START + 100, fold_user(UserState("u"), facts), ("i7",))]
    got = rank(lambda batch: torch.zeros(1, 12), found, rows)
    assert got.coverage == pytest.approx(0.5)


def test_item_knn_is_the_cosine_of_binary_columns_and_keeps_k_neighbours() -> None:
    met = [["a", "b", "b"], ["a", "b"], ["a", "c"], ["d"]]
    knn = ItemKNN("abcd", k=1).fit(met)
    assert knn.similar[0].tolist() == pytest.approx([0, 2 / math.sqrt(6), 0, 0])  # c is cut off
    assert knn.similar[2].tolist() == pytest.approx([1 / math.sqrt(3), 0, 0, 0])
    scored = knn.score([case("ac", "b").user])
    assert scored[0].tolist() == pytest.approx([1 / math.sqrt(3), 2 / math.sqrt(6), 0, 0])


@pytest.fixture(scope="module")
def music() -> Log:
    if not MUSIC.exists():
        pytest.skip(f"{MUSIC} is not there: real reviews are not part of the repository")
    return read_log(_interactions(), SPACE)


@pytest.fixture(scope="module")
def music_test(music: Log) -> list[Case]:
    return with_history(cases(music, SPLIT, math.inf), SPLIT)


def test_musical_instruments_split_as_published(music: Log, music_test: Sequence[Case]) -> None:
    assert music.before(SPLIT) == 8_225
    assert sum(len(case.targets) for case in music_test) == 1_309
    assert len({case.user.user_id for case in music_test}) == 474


def test_popularity_on_musical_instruments_is_as_well_kept_libraries_give(
    music: Log, music_test: Sequence[Case]
) -> None:
    table = Popularity(SPACE).encode_items(items_before(music, SPLIT))
    got = evaluate(servable(Popularity(SPACE), table), music_test, table.row_of, table.extra["users"].tolist())
    assert got["ndcg@10"] == pytest.approx(0.0442, abs=0.0002)


def test_item_knn_on_musical_instruments_is_as_well_kept_libraries_give(music: Log, music_test: Sequence[Case]) -> None:
    ids = [node.item_id for node in items_before(music, SPLIT)]
    met = [[f.item_id for ts, f in facts if ts < SPLIT] for facts in music.by_user.values()]  # type: ignore[union-attr]
    knn = ItemKNN(ids, 100).fit(met)
    got = evaluate(offline(knn.score), music_test, knn.row_of, [0.0] * len(ids))
    assert got["ndcg@10"] == pytest.approx(0.0254, abs=0.0006)  # which of equal neighbours are kept is left open


def _interactions() -> Iterator[Event]:
    with gzip.open(MUSIC, "rt") as lines:
        for n, line in enumerate(lines):
            row = json.loads(line)
            ts = float(row["unixReviewTime"])
            yield Interaction(event_id=f"e{n}", user_id=row["reviewerID"], item_id=row["asin"], ts=ts)
