"""services/ranking/stages/explain.py: every item says why, from what is true of this user and this item."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.ranking import opinions
from services.ranking.stages import explain
from services.ranking.stages.explain import best_of, closest_of_history, fitting, voices_of
from shared.models.contract import ItemTable
from tests.services.ranking.conftest import World
from tests.services.ranking.doubles import item_of, pair_of, review_of, user_of


async def explained(world: World, *reviews_of_item: object) -> object:
    own = review_of("h", "own", pair_of("battery", "dies fast", -1, (1.0, 0.0)), pair_of("price", "fair", 1))
    world.graph.put(user_of("u", ["h"], [own]))
    await world.stock([item_of("h"), item_of("x", reviews=reviews_of_item)])  # type: ignore[arg-type]
    await world.publish()
    (item,) = (await world.rank("u", 5)).items
    return item.explanation


async def test_reviewers_words_on_an_attribute_that_the_user_speaks_about(world: World) -> None:
    found = await explained(
        world,
        review_of("v", "r1", pair_of("battery", "bad", -1), pair_of("colour", "lovely", 1)),
        review_of("w", "r2", pair_of("battery", "fine", 0)),
        review_of("w", "r3", pair_of("battery", "lasts long", 1)),
    )
    reason = found.opinion  # type: ignore[attr-defined]
    assert (reason.attribute, reason.opinion, reason.review_id) == ("battery", "lasts long", "r3")
    assert reason.quote == "the battery is lasts long"


async def test_an_item_of_which_nobody_speaks_so_is_explained_by_the_history(world: World) -> None:
    found = await explained(world, review_of("v", "r1", pair_of("colour", "lovely", 1)))
    assert found.history.item_id == "h"  # type: ignore[attr-defined]


async def test_a_complaint_is_no_reason(world: World) -> None:
    found = await explained(world, review_of("v", "r1", pair_of("battery", "bad", -1)))
    assert found.history.item_id == "h"  # type: ignore[attr-defined]


def test_of_equally_positive_opinions_the_one_that_agrees_with_the_users_own_is_told() -> None:
    (voices,) = voices_of([user_of("u", [], [review_of("h", "own", pair_of("fit", "snug", 1, (0.0, 1.0)))])])
    kept = opinions.unpack(
        opinions.pack(
            [
                review_of("v", "r1", pair_of("fit", "loose", 1, (1.0, 0.0))),
                review_of("v", "r2", pair_of("fit", "tight", 1, (0.1, 1.0))),
            ]
        )
    )
    (found,) = best_of([fitting(kept, voices, set())])
    assert found is not None
    assert found.phrase == "tight"


def test_a_users_own_words_are_not_told_back_to_them() -> None:
    own = review_of("h", "own", pair_of("fit", "snug"))
    (voices,) = voices_of([user_of("u", [], [own])])
    assert best_of([fitting(opinions.unpack(opinions.pack([own])), voices, {"own"})]) == [None]


def test_a_named_attribute_says_more_than_the_catch_all() -> None:
    review = review_of("h", "r", pair_of("other", "great"), pair_of("fit", "snug", 1, (0.0, 1.0)))
    (voices,) = voices_of([user_of("u", [], [review_of("h", "o", pair_of("other", "great"), pair_of("fit", "loose"))])])
    (found,) = best_of([fitting(opinions.unpack(opinions.pack([review])), voices, set())])
    assert found is not None
    assert found.attribute == "fit"


def test_few_opinions_are_kept_an_attribute_and_positive_newest_ones_first() -> None:
    reviews = [review_of("v", f"r{n}", pair_of("fit", f"p{n}", n % 2)) for n in range(10)]
    kept = opinions.unpack(opinions.pack(reviews))
    assert [opinion.review_id for opinion in kept] == ["r1", "r3", "r5"]


async def test_the_closest_item_of_the_history_is_the_reason(world: World) -> None:
    nodes = [item_of(f"i{n}") for n in range(12)]
    await world.stock(nodes)
    await world.publish()
    world.graph.put(user_of("u", ["i1", "i2", "i3"]))
    answer = await world.rank("u", 12, include_seen=True)
    table = world.catalogue.current.table
    assert table is not None
    unit = table.vectors / table.vectors.norm(dim=1, keepdim=True)
    for item in answer.items:
        near = {
            i: float(unit[table.row_of[i]] @ unit[table.row_of[item.item_id]])
            for i in ("i1", "i2", "i3")
            if i != item.item_id
        }
        assert item.explanation.history.item_id == max(near, key=lambda i: near[i])


TABLE = ItemTable(
    [f"i{n}" for n in range(20)], torch.randn(20, 4, generator=torch.Generator().manual_seed(1)), torch.zeros(20)
)
ROWS = st.lists(st.integers(0, 19), max_size=6, unique=True)


@given(
    asked=st.lists(st.tuples(ROWS.filter(bool), ROWS), min_size=1, max_size=5), padded_rows=st.sampled_from([1, 8, 99])
)
def test_reasons_are_the_same_whoever_shares_the_batch(
    asked: list[tuple[list[int], list[int]]], padded_rows: int
) -> None:
    unit = TABLE.vectors / TABLE.vectors.norm(dim=1, keepdim=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explain, "PADDED_ROWS", padded_rows)
        found = closest_of_history(TABLE, asked)
    assert [len(of_rows) for of_rows in found] == [len(rows) for _, rows in asked]
    for (history, rows), reasons in zip(asked, found, strict=True):
        for row, reason in zip(rows, reasons, strict=True):
            others = [met for met in history if met != row] or history
            assert reason == max(others, key=lambda met: float(unit[met] @ unit[row]))


def test_what_a_user_says_is_the_same_whoever_shares_the_batch() -> None:
    users = [
        user_of("a", [], [review_of("h", "r1", pair_of("fit", "snug", 1, (1.0, 0.0)), pair_of("fit", "wide"))]),
        user_of("nobody"),
        user_of("b", [], [review_of("h", "r2", pair_of("fit", "of another space", 1, (0.0, 1.0, 0.0)))]),
    ]
    for together, user in zip(voices_of(users), users, strict=True):
        (alone,) = voices_of([user])
        assert {name: (v.direction.tolist(), v.count) for name, v in together.items()} == {
            name: (v.direction.tolist(), v.count) for name, v in alone.items()
        }
    assert [list(voices) for voices in voices_of(users)] == [["fit"], [], ["fit"]]
