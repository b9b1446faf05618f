"""services/ranking/stages/explain.py: every item says what of the user moved its score, and nothing that is not so."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.ranking import opinions
from services.ranking.facts import Facts
from services.ranking.job import Explanation, Job, Pick
from services.ranking.requests import Query
from services.ranking.stages import explain
from services.ranking.stages.explain import closest_of_history
from shared.events import Pair, user_hash
from shared.graph.state import ReviewSlot, UserState
from shared.models.attribution import Moved, left_out
from shared.models.contract import ItemTable
from shared.pb.finestream.v1 import ranking_pb2
from tests.services.ranking.conftest import World
from tests.services.ranking.doubles import DotModel, item_of, pair_of, review_of, user_of, vector_of


class Adding(DotModel):
    """A test double whose users are sums, so that each edge moves every score by its own weight times the bias of x.

    `weights`: of items and of attributes. Told as it is, it is what leaving out finds.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = weights
        self.told = 0

    def encode_users(self, users: Sequence[UserState], table: ItemTable, now: float) -> Tensor:
        return torch.stack([self._sum(user) * vector_of("x") / vector_of("x").square().sum() for user in users])

    def moved(self, users: Sequence[UserState], table: ItemTable, rows: Sequence[Sequence[int]]) -> Moved:
        self.told += 1
        return left_out(self, users, table, 0.0, rows)

    def _sum(self, user: UserState) -> float:
        met = [slot.item_id for slot in user.interactions] + [p.attribute for s in user.reviews for p in s.pairs]
        return sum(self.weights.get(edge, 0.0) for edge in met)


OWN = review_of("h", "own", pair_of("battery", "dies fast", -1, (1.0, 0.0)), pair_of("price", "fair", 1))
SAID = (
    review_of("v", "r1", pair_of("battery", "bad", -1), pair_of("colour", "lovely", 1)),
    review_of("w", "r2", pair_of("battery", "fine", 0)),
    review_of("w", "r3", pair_of("battery", "lasts long", 1, (0.0, 1.0))),
    review_of("y", "r4", pair_of("battery", "lasts", 1, (1.0, 0.1)), pair_of("price", "low", 1)),
)


async def explained(
    world: World, weights: Mapping[str, float], reviews: Sequence[ReviewSlot] = SAID, **asked: object
) -> ranking_pb2.Explanation:
    """Of the item x, for a user who met g and h and reviewed h."""
    world.graph.put(user_of("u", ["g", "h"], [OWN]))
    await world.stock([item_of("g"), item_of("h"), item_of("x", users=7, reviews=reviews)])
    await world.publish(Adding(weights))
    (item,) = (await world.rank("u", 5, **asked)).items
    return item.explanation


@pytest.mark.parametrize("exactly", [False, True])
async def test_the_item_of_the_history_that_moved_the_score_most_is_the_reason(world: World, exactly: bool) -> None:
    found = await explained(world, {"g": 2.0, "h": 3.0, "battery": 1.0}, leave_out=exactly)
    assert found.history.item_id == "h"
    assert found.moved == pytest.approx(3.0, rel=1e-4)


async def test_beside_it_stands_what_of_the_users_words_moved_it_most_in_a_reviewers_words(world: World) -> None:
    found = await explained(world, {"h": 3.0, "battery": 1.0, "price": 0.5})
    assert (found.spoken.attribute, found.spoken.review_id) == ("battery", "r4")
    assert found.spoken_moved == pytest.approx(1.0, rel=1e-4)
    assert found.moved == pytest.approx(3.0, rel=1e-4)


async def test_of_what_moved_it_only_that_is_spoken_of_which_reviewers_speak_of(world: World) -> None:
    found = await explained(world, {"h": 3.0, "battery": 1.0, "price": 0.5}, SAID[:1] + SAID[3:])
    assert found.spoken.attribute == "battery"
    world.graph.put(item_of("x", 2, users=7, reviews=[review_of("w", "r5", pair_of("price", "low", 1))]))
    await world.stock([item_of("x", 2, users=7, reviews=[review_of("w", "r5", pair_of("price", "low", 1))])])
    (item,) = (await world.rank("u", 5)).items
    assert (item.explanation.spoken.attribute, item.explanation.spoken.review_id) == ("price", "r5")
    assert item.explanation.spoken_moved == pytest.approx(0.5, rel=1e-4)


async def test_a_pair_that_moved_the_score_most_is_told_in_the_words_of_the_items_reviewer(world: World) -> None:
    found = await explained(world, {"h": 1.0, "battery": 2.0})
    reason = found.opinion
    assert (reason.attribute, reason.opinion, reason.review_id) == ("battery", "lasts", "r4")  # closest to the user's
    assert reason.quote == "the battery is lasts"
    assert found.moved == pytest.approx(2.0, rel=1e-4)
    assert not found.HasField("spoken")


async def test_where_no_reviewer_praises_the_attribute_it_stands_alone(world: World) -> None:
    found = await explained(world, {"h": 1.0, "battery": 2.0}, SAID[:1])  # who complains is no reason
    assert found.opinion == ranking_pb2.OpinionReason(attribute="battery")
    assert found.moved == pytest.approx(2.0, rel=1e-4)


async def test_a_users_own_words_are_not_told_as_somebody_elses(world: World) -> None:
    """Also of a review that the user's state no longer holds."""
    mine = review_of("u", "long ago", pair_of("battery", "mine", 1, (1.0, 0.0)))
    found = await explained(world, {"h": 1.0, "battery": 2.0}, [mine])
    assert found.opinion == ranking_pb2.OpinionReason(attribute="battery")
    assert not (await explained(world, {"h": 3.0, "battery": 2.0}, [mine])).HasField("spoken")


@pytest.mark.parametrize("exactly", [False, True])
async def test_where_nothing_moved_it_upward_its_popularity_is_the_reason(world: World, exactly: bool) -> None:
    found = await explained(world, {"h": -1.0, "battery": -2.0}, leave_out=exactly)
    assert found == ranking_pb2.Explanation(popular=ranking_pb2.PopularReason(users=7))


async def test_a_model_is_only_asked_where_the_request_wants_no_more(world: World) -> None:
    world.graph.put(user_of("u", ["g", "h"], [OWN]))
    await world.stock([item_of("g"), item_of("h"), item_of("x")])
    model = Adding({"h": 1.0})
    await world.publish(model)
    rehearsed = model.told
    await world.rank("u", 5, leave_out=True)
    assert model.told == rehearsed
    await world.rank("u", 5)
    assert model.told == rehearsed + 1


async def test_a_model_that_cannot_say_it_is_left_out_of_where_that_is_asked_for(world: World) -> None:
    world.graph.put(user_of("u", ["g", "h"]))
    await world.stock([item_of("g"), item_of("h"), item_of("x")])
    await world.publish()
    told, exact = [(await world.rank("u", 5, leave_out=leave)).items[0].explanation for leave in (False, True)]
    assert told.history.item_id
    assert not told.HasField("moved")
    products = {met: float(vector_of(met) @ vector_of("x")) / 2 for met in ("g", "h")}  # u is the mean of both
    moved = {"g": products["g"] - products["h"], "h": products["h"] - products["g"]}
    assert exact.history.item_id == max(moved, key=lambda met: moved[met])
    assert exact.moved == pytest.approx(max(moved.values()), abs=1e-4)


async def test_a_user_who_only_reviewed_is_told_what_moved_all_the_same(world: World) -> None:
    world.graph.put(user_of("u", [], [OWN]))
    await world.stock([item_of("h"), item_of("x", reviews=SAID)])
    await world.publish(Adding({"battery": 1.0}))
    for exactly in (False, True):
        (item,) = (await world.rank("u", 5, leave_out=exactly)).items
        assert item.explanation.opinion.attribute == "battery"


def test_few_opinions_are_kept_an_attribute_and_positive_newest_ones_first() -> None:
    reviews = [review_of("v", f"r{n}", pair_of("fit", f"p{n}", n % 2)) for n in range(10)]
    kept = opinions.unpack(opinions.pack(reviews), "fit")
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


ATTRIBUTES = ("battery", "colour", "price", "fit")
PAIRS = st.builds(
    pair_of,
    st.sampled_from(ATTRIBUTES),
    st.sampled_from(["fine", "lovely"]),
    st.integers(-1, 1),
    st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 2).filter(any),
)
REVIEWS = st.builds(
    lambda by, name, said: review_of(by, name, *said),
    st.sampled_from(["u0", "u1", "v", "w"]),
    st.sampled_from(["r1", "r2", "r3"]),
    st.lists(PAIRS, max_size=4),
)
MOVES = st.sampled_from([-1.0, 0.0, 0.5, 0.5, 1.0, 2.0])  # many are equal


@st.composite
def moved_scores(draw: st.DrawFn) -> tuple[list[Job], Facts, Moved]:
    """Of the users u0, u1, ...: a score of each item, and what moved it."""
    facts, users, k = Facts(), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    facts.put([item_of(f"i{n}", users=n, reviews=draw(st.lists(REVIEWS, max_size=4))) for n in range(4)])
    rows = st.lists(st.integers(0, 3), max_size=k, unique=True)
    jobs = [
        Job(Query(f"u{n}", k), 0.0, user=UserState(f"u{n}"), picks=[Pick(row, 1.0) for row in draw(rows)])
        for n in range(users)
    ]
    said = [draw(st.lists(PAIRS, max_size=4)) for _ in jobs]
    met = [draw(st.integers(0, 3)) for _ in jobs]
    moves = st.lists(MOVES, min_size=k, max_size=k)
    by_items, by_said = torch.full((users, 3, k), -torch.inf), torch.full((users, 4, k), -torch.inf)
    for at in range(users):
        for by, count in ((by_items, met[at]), (by_said, len(said[at]))):
            for edge in range(count):
                by[at, edge] = torch.tensor(draw(moves))
    return jobs, facts, Moved(torch.arange(users * 3).view(users, 3) % 4, by_items, said, by_said)


@settings(deadline=None, max_examples=300)
@given(moved_scores())
def test_what_is_said_of_a_batch_is_what_is_said_of_each_pick_by_itself(asked: tuple[list[Job], Facts, Moved]) -> None:
    jobs, facts, moved = asked
    explain._tell(jobs, facts, moved)
    for at, job in enumerate(jobs):
        assert len(job.explanations) == len(job.picks)
        for k, (pick, told) in enumerate(zip(job.picks, job.explanations, strict=True)):
            by_items, by_said = (by[at, :, k].tolist() for by in (moved.by_items, moved.by_said))
            others = [
                opinion
                for attribute in facts.opinions(pick.row)
                for opinion in opinions.unpack(facts.opinions(pick.row), attribute)
                if opinion.by != user_hash(job.user.user_id)
            ]
            expected = plainly(moved.items[at].tolist(), by_items, moved.said[at], by_said, others, pick.row)
            assert ranking_pb2.Explanation(**told) == ranking_pb2.Explanation(**expected)


def plainly(
    items: Sequence[int],
    by_items: Sequence[float],
    said: Sequence[Pair],
    by_said: Sequence[float],
    others: Sequence[opinions.Opinion],
    row: int,
) -> Explanation:
    """The reason for one pick; in facts, item n has n users. `others`: what reviewers but the user say of it."""
    by_item, most = max(by_items), max(by_said)
    if most > max(by_item, 0.0):
        pair = said[by_said.index(most)]
        return {"opinion": words_on(pair, others) or {"attribute": pair.attribute}, "moved": most}
    if by_item <= 0:
        return {"popular": {"users": row}}
    reason: Explanation = {"history": {"item_id": f"i{items[by_items.index(by_item)]}"}, "moved": by_item}
    spoken = [place for place, pair in enumerate(said) if by_said[place] > 0 and words_on(pair, others)]
    if spoken:
        place = max(spoken, key=lambda place: by_said[place])
        reason |= {"spoken": words_on(said[place], others), "spoken_moved": by_said[place]}
    return reason


def words_on(pair: Pair, others: Sequence[opinions.Opinion]) -> dict[str, str] | None:
    same = [opinion for opinion in others if opinion.attribute == pair.attribute]
    if not same:
        return None
    told = max(same, key=lambda opinion: (opinion.polarity, explain.agreement(opinion.vector, pair.vector)))
    return {
        "attribute": told.attribute, "opinion": told.phrase, "quote": told.quote, "review_id": told.review_id,
    }  # fmt: skip
