"""`finestream rank` and `finestream similar`: options become the request, and the answer is told in words."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click
import grpc
import pytest
from typer.testing import CliRunner

from shared.cli.main import app
from shared.cli.tables import explanation, sentence
from shared.pb.finestream.v1 import graph_pb2, graph_pb2_grpc, ranking_pb2, ranking_pb2_grpc
from shared.pb.finestream.v1.ranking_pb2 import Explanation, RankedItem, RankRequest

runner = CliRunner()


class RankingDouble(ranking_pb2_grpc.RankingServiceServicer):
    """A test double of ranking: one answer with every way to come to a place."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def Rank(self, request: RankRequest, context: Any) -> ranking_pb2.RankResponse:
        self.asked.append(request)
        explored = Explanation(explored=ranking_pb2.ExploredReason(users=3))
        pinned = Explanation(pinned=ranking_pb2.PinnedReason())
        return ranking_pb2.RankResponse(
            items=[
                RankedItem(item_id="a", score=2.0, explanation=explored, propensity=0.1),
                RankedItem(item_id="b", score=1.0, explanation=pinned, propensity=1.0),
            ],
            rung=ranking_pb2.RUNG_FULL, policy="ucb 0.1", next_page_token="next" if request.paged else "",
        )  # fmt: skip

    def SimilarItems(self, request: Any, context: Any) -> ranking_pb2.RankingServiceSimilarItemsResponse:
        self.asked.append(request)
        items = [ranking_pb2.SimilarItem(item_id="b", similarity=0.5)]
        return ranking_pb2.RankingServiceSimilarItemsResponse(items=items, model_version="v1")


class GraphDouble(graph_pb2_grpc.GraphServiceServicer):
    """A test double of graph_updater that knows nothing, and tells it to whom it likes."""

    tells = True

    def GetItems(self, request: Any, context: Any) -> graph_pb2.GetItemsResponse:
        if not self.tells:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "the token 'shop' lacks the scope 'admin'")
        return graph_pb2.GetItemsResponse(items=[graph_pb2.NodeState(id=item_id) for item_id in request.item_ids])


@pytest.fixture
def ranking(monkeypatch: pytest.MonkeyPatch) -> Iterator[RankingDouble]:
    double = RankingDouble()
    server = grpc.server(ThreadPoolExecutor(2))
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(double, server)
    graph_pb2_grpc.add_GraphServiceServicer_to_server(GraphDouble(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    monkeypatch.setenv("FINESTREAM_RANKING_ADDRESS", address)
    monkeypatch.setenv("FINESTREAM_GRAPH_ADDRESS", address)
    yield double
    server.stop(None).wait()


def test_what_is_left_out_is_left_to_the_service(ranking: RankingDouble) -> None:
    assert runner.invoke(app, ["rank", "alice"]).exit_code == 0
    assert ranking.asked == [RankRequest(user_id="alice", k=10)]


def test_every_option_is_in_the_request_and_the_answer_is_whole(ranking: RankingDouble) -> None:
    shown = runner.invoke(app, [
        "rank", "alice", "--k", "5", "--diversity", "0", "--diversity-method", "dpp", "--per-category", "2",
        "--exploration", "0.5", "--exploration-method", "ucb", "--leave-one-out", "--min-price", "0", "--max-price", "9.5", "--paged", "--page-token", "t", "--json",
    ])  # fmt: skip
    assert shown.exit_code == 0, shown.output
    assert ranking.asked == [
        RankRequest(
            user_id="alice", k=5, diversity=0.0, diversity_method=ranking_pb2.DIVERSITY_METHOD_DPP, max_per_category=2,
            exploration=0.5, exploration_method=ranking_pb2.EXPLORATION_METHOD_UCB, paged=True, page_token="t",
            min_price=0.0, max_price=9.5, explanation_method=ranking_pb2.EXPLANATION_METHOD_LEAVE_ONE_OUT,
        )
    ]  # fmt: skip
    told = json.loads(shown.output)
    assert told["explanations"] == [{"kind": "explored", "users": 3}, {"kind": "pinned"}]
    assert (told["policy"], told["propensities"], told["next_page_token"]) == ("ucb 0.1", [0.1, 1.0], "next")


def test_a_table_says_why_and_how_to_go_on(ranking: RankingDouble) -> None:
    shown = runner.invoke(app, ["rank", "alice", "--paged"], terminal_width=200)
    said = click.unstyle(shown.output)
    assert "shown to learn about it" in said
    assert "put here by a rule" in said
    assert "--page-token next" in said


@pytest.mark.parametrize(
    "wrong", [["--diversity", "2"], ["--exploration", "-1"], ["--diversity-method", "x"], ["--per-category", "-1"]]
)
def test_a_wrong_option_is_told_before_anybody_is_asked(ranking: RankingDouble, wrong: list[str]) -> None:
    assert runner.invoke(app, ["rank", "alice", *wrong]).exit_code == 2
    assert ranking.asked == []


@pytest.mark.parametrize("asked", [["rank", "alice"], ["similar", "a"]])
def test_who_may_not_read_the_graph_gets_the_answer_without_titles_and_is_told_why(
    ranking: RankingDouble, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.setattr(GraphDouble, "tells", False)
    shown = runner.invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "without titles: the token 'shop' lacks" in shown.stderr
    assert "without titles" not in shown.stdout


def test_similar_names_the_items_and_how_alike_they_are(ranking: RankingDouble) -> None:
    shown = runner.invoke(app, ["similar", "a", "--k", "3", "--category", "c", "--max-price", "2", "--json"])
    assert ranking.asked == [
        ranking_pb2.RankingServiceSimilarItemsRequest(item_id="a", k=3, categories=["c"], max_price=2.0)
    ]
    assert json.loads(shown.output) == {"item": "a", "items": ["b"], "similarities": [0.5], "model_version": "v1"}
    assert "0.500" in runner.invoke(app, ["similar", "a"]).output


def test_a_reason_is_told_with_what_it_moved_and_the_words_beside_it() -> None:
    words = ranking_pb2.OpinionReason(attribute="price", opinion="low", quote="the price is low", review_id="r1")
    history = ranking_pb2.HistoryReason(item_id="h")
    told = explanation(Explanation(history=history, moved=2.0, spoken=words, spoken_moved=0.25))
    assert (told["item_id"], told["moved"], told["spoken"]["review_id"], told["spoken"]["moved"]) == (
        "h",
        2.0,
        "r1",
        0.25,
    )
    assert sentence(told, {"h": "Harp"}) == "because of Harp [h]; price: “the price is low” (review r1)"
    assert sentence(explanation(Explanation(history=history)), {}) == "because of h"
    assert sentence(explanation(Explanation(opinion=words, moved=1.0)), {}) == "price: “the price is low” (review r1)"
    alone = ranking_pb2.OpinionReason(attribute="price")
    assert sentence(explanation(Explanation(opinion=alone, moved=1.0)), {}) == "price, which you write of"
