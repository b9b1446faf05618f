"""The demo's own arithmetic: who is shown, what has moved, when it is drained, and what a probe measures."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from shared import topics
from shared.cli.demo import freshness, live
from shared.cli.demo.dataset import Census, of_catalogue, of_file
from shared.cli.demo.drain import Progress
from shared.cli.demo.failed import DemoFailed
from shared.cli.demo.summary import Summary
from shared.cli.screen import Screen
from shared.events import Interaction, Pair, Review
from shared.graph.state import InteractionSlot, ReviewSlot, UserState
from shared.local.catalogue import generate
from shared.local.ledger import Sent
from shared.local.verify import Accounts


def ends(**counts: int) -> dict[str, dict[int, int]]:
    names = (*topics.ARCHIVED, topics.dead_letters(topics.REVIEWS), topics.dead_letters(topics.INTERACTIONS))
    return {name: {0: counts.get(name.replace("-", "_").replace(".", "_"), 0)} for name in names}


def test_it_is_drained_when_all_is_answered_folded_archived_and_read() -> None:
    done = ends(interactions=5, reviews=3, opinions=2, reviews_dlq=1, item_edges=7)
    assert Progress(done, 0, {"g": 0}).is_done(3)
    assert not Progress(done, 1, {"g": 0}).is_done(3)
    assert not Progress(done, 0, {"g": 2}).is_done(3)
    assert not Progress(done, 0, {"g": 0}).is_done(4)
    assert not Progress({**done, "item-edges": {0: 6}}, 0, {"g": 0}).is_done(3)


def test_a_refused_interaction_is_not_waited_for_on_the_item_side() -> None:
    assert Progress(ends(interactions=5, interactions_dlq=2, item_edges=3), 0, {}).is_done(0)


def test_a_census_knows_heads_and_tails() -> None:
    def passing() -> Iterator[Sent]:
        for user in range(1, 11):
            for n in range(user):
                yield Interaction(event_id=f"{user}-{n}", user_id=f"u{user:02d}", item_id=f"b{n}", ts=1e9)
            if user != 10:
                yield Review(
                    review_id=f"r{user}", user_id=f"u{user:02d}", item_id="b0", ts=1e9, text="Fine.", rating=5.0
                )  # fmt: skip

    census = Census()
    assert len(list(census.passing(passing()))) == 55 + 9
    assert (census.interactions, census.reviews) == (55, 9)
    assert census.spread_of_users(3) == ["u09", "u05", "u01"]
    assert len(census.praise) == 9


def test_a_file_is_counted_before_it_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "reviews.json"
    path.write_text('{"reviewerID": "A", "asin": "B", "unixReviewTime": 1000000000, "reviewText": "x"}\n' * 3)
    data = of_file(path, None, lambda *_: None)
    assert data.total == len(list(data.read())) == 6


def test_a_catalogue_streams_its_items_first() -> None:
    catalogue = generate(1, 40, 20, 200)
    data = of_catalogue(catalogue)
    streamed = list(data.read())
    assert streamed[:40] == catalogue.items
    assert len(streamed) == data.total


@given(st.permutations([f"b{n}" for n in range(8)]))
def test_moves_say_where_each_moved_item_came_from(after: list[str]) -> None:
    before = [f"b{n}" for n in range(8)]
    moves = live._moves(before, after)
    assert {move["item"] for move in moves} == {a for a, b in zip(after, before, strict=True) if a != b}
    assert all(before[move["from"] - 1] == move["item"] == after[move["to"] - 1] for move in moves)


def test_an_item_from_below_has_no_place_before() -> None:
    assert live._moves(["a", "b"], ["a", "c"]) == [{"item": "c", "from": None, "to": 2}]


def test_a_user_complains_about_what_they_speak_of_most() -> None:
    def slot(n: int, attribute: str) -> ReviewSlot:
        pair = Pair(attribute, "x", b"", 1, 0, 1, "x")
        return ReviewSlot(f"b{n}", f"r{n}", float(n), 0.0, 1, 5.0, (pair,), b"")

    state = UserState(
        "u", (InteractionSlot(9.0, "e", "b9", "click"),), (slot(1, "sound"), slot(2, "price"), slot(3, "sound"))
    )
    assert live._sore_point(state) == ("sound", "b9")
    with pytest.raises(DemoFailed, match="no history"):
        live._sore_point(UserState("u"))


def test_every_attribute_to_complain_about_has_sentences() -> None:
    from shared.local.sentences import OPINIONS

    assert set(live.COMPLAINTS.values()) <= OPINIONS.keys()


@given(st.lists(st.floats(0, 10), min_size=1), st.sampled_from([0.5, 0.95]))
def test_a_quantile_is_a_measured_value_with_enough_below_it(values: list[float], share: float) -> None:
    found = freshness.quantile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


def test_no_probe_no_figure() -> None:
    assert freshness.figures([]) == {"p50": None, "p95": None, "probes": 0}


@pytest.mark.parametrize(
    ("lost", "unanswered", "differing", "problems"),
    [
        ({}, [], [], 0),
        ({"reviews": ["r1"]}, [], [], 1),
        ({}, ["r1"], [], 1),
        ({}, [], ["u1"], 1),
    ],
)
def test_only_a_whole_account_is_without_problems(
    lost: dict[str, list[str]], unanswered: list[str], differing: list[str], problems: int
) -> None:
    summary = Summary("x")
    summary.note_end(Accounts(lost, {}, unanswered), 10, differing)
    assert len(summary.problems) == problems
    assert summary.lost == sum(map(len, lost.values()))
    assert summary.states_equal == (not differing)


def test_progress_ends_with_its_last_figure_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with Screen(Console(file=out, force_terminal=False)).progress("sent", 10) as bar:
        bar.at(4)
        bar.at(10)
    assert out.getvalue() == " " * 10 + "sent: 10 of 10\n"
