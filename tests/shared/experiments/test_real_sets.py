"""The published sets: that what is read of them is what others count, and that baselines reach what others measured."""

from dataclasses import replace as changed
from functools import cache
from pathlib import Path

import pytest
import torch

from shared.experiments.tasks import DataSpec, Task, load
from shared.models.dataset import Case
from shared.models.evaluation import Ranking, offline, rank
from shared.models.item_knn import ItemKNN
from shared.models.split import Split

DATA = Path(__file__).parents[4] / "shared" / "data"
NEIGHBOURS = 100

INSTRUMENTS = DataSpec(
    "musical_instruments", split="2014-02-07", text=False,
    reviews=DATA / "amazon2014_musical_instruments" / "reviews_Musical_Instruments_5.json.gz",
)  # fmt: skip
GIFT_CARDS = DataSpec(
    "gift_cards", text=False, reviews=DATA / "amazon2018_gift_cards" / "Gift_Cards_5.json.gz",
    items=DATA / "amazon2018_gift_cards" / "meta_Gift_Cards.json.gz",
)  # fmt: skip
FASHION = DataSpec("fashion", "sampled", interactions=DATA / "llmesr_fashion" / "inter.txt.gz")
BEAUTY = DataSpec("beauty", "leave_one_out", sequences=DATA / "s3rec_beauty" / "Beauty.txt.gz")


@cache
def task(spec: DataSpec) -> Task:
    found = [path for path in (spec.reviews, spec.items, spec.interactions, spec.sequences) if path is not None]
    if missing := [path.name for path in found if not path.exists()]:
        pytest.skip(f"{', '.join(missing)} is not there: ../shared/data holds the published sets")
    return load(spec)


def item_knn(split: Split, own: float = 0.0) -> ItemKNN:
    """`own`: how similar an item is to itself, which counts only where items met before are asked again."""
    ids = [node.item_id for node in split.items]
    s = split.sequences
    met = [[ids[row] for row in s.items[start:end]] for start, end in zip(s.offsets, s.offsets[1:], strict=False)]
    knn = ItemKNN(ids, NEIGHBOURS).fit(met)
    knn.similar.fill_diagonal_(own)
    return knn


def ranked(of: Task, scorer: object) -> Ranking:
    return rank(scorer, of.cases, of.test.row_of, repeats=of.test.repeats, negatives=of.negatives, lists=False)  # type: ignore[arg-type]


def means(found: Ranking, *names: str) -> list[float]:
    return [float(found.figures[name].mean()) for name in names]


def popularity(of: Task) -> Ranking:
    counts = torch.from_numpy(of.test.counts).float()
    return ranked(of, lambda cases: counts.expand(len(cases), -1))


@pytest.mark.parametrize(
    ("spec", "users", "items", "interactions", "repeats"),
    [
        (INSTRUMENTS, 1429, 900, 10_261, 0),
        (changed(INSTRUMENTS, protocol="leave_one_out"), 1429, 900, 10_261, 0),
        (GIFT_CARDS, 458, 148, 2972, 7),
        (FASHION, 9094, 4722, 34_759, 4460),
    ],
    ids=lambda value: f"{value.name}-{value.protocol}" if isinstance(value, DataSpec) else "",
)
def test_the_sets_are_of_the_published_size(
    spec: DataSpec, users: int, items: int, interactions: int, repeats: int
) -> None:
    figures = task(spec).figures
    assert [figures[name] for name in ("users", "items", "interactions", "repeats")] == [
        users, items, interactions, repeats
    ]  # fmt: skip


@pytest.mark.slow
def test_beauty_is_of_the_published_size() -> None:
    found = task(BEAUTY)
    figures = found.figures
    assert [figures[name] for name in ("users", "items", "interactions")] == [22_363, 12_101, 198_502]
    assert len(found.cases) == len(found.validation.held_out) == 22_363
    assert found.validation.log.interactions == 198_502 - 2 * 22_363


def test_a_fifth_of_the_fashion_targets_is_in_the_input_already() -> None:
    found = task(FASHION)
    assert len(found.cases) == len(found.validation.held_out) == 9094
    assert found.figures["targets_met_before"] == pytest.approx(0.222, abs=0.001)


def test_the_time_split_of_the_instruments_is_the_published_one() -> None:
    found = task(INSTRUMENTS)
    assert found.figures["refit"] / 10_261 == pytest.approx(0.8, abs=0.005)
    assert all(node.last_seen < found.test.at for node in found.test.items)


def test_all_gift_cards_with_metadata_are_known_or_only_those_that_were_met() -> None:
    assert len(task(GIFT_CARDS).test.items) == 1547
    assert len(task(changed(GIFT_CARDS, only_met=True)).test.items) == 148


def test_item_knn_and_popularity_reach_on_the_instruments_what_well_kept_libraries_reach() -> None:
    names = ("hr@10", "ndcg@10", "ndcg@20")
    last_out = task(changed(INSTRUMENTS, protocol="leave_one_out"))
    knn = ranked(last_out, offline(item_knn(last_out.test).score))
    assert means(knn, *names) == pytest.approx([0.0784, 0.0391, 0.0510], abs=0.008)
    assert means(popularity(last_out), *names) == pytest.approx([0.0756, 0.0390, 0.0471], abs=0.0005)
    by_time = task(INSTRUMENTS)
    knn = ranked(by_time, offline(item_knn(by_time.test).score))
    assert means(knn, *names) == pytest.approx([0.0518, 0.0254, 0.0341], abs=0.008)
    assert means(popularity(by_time), *names) == pytest.approx([0.0848, 0.0442, 0.0576], abs=0.0005)


def test_item_knn_reaches_on_fashion_what_others_measured_under_the_protocol_of_llmesr() -> None:
    found = task(FASHION)
    split, similar = found.test, item_knn(found.test, own=1.0).similar

    def scorer(cases: list[Case]) -> torch.Tensor:
        histories = ([split.row_of[slot.item_id] for slot in case.user.interactions] for case in cases)
        return torch.stack([similar[sorted(set(rows))].sum(0) for rows in histories])

    assert means(ranked(found, scorer), "hr@10", "ndcg@10") == pytest.approx([0.4809, 0.4372], abs=0.008)
