"""The whole demo, small: every service as a process, a data set through them, and everything it promises."""

import json
from pathlib import Path

import pytest

from tests.e2e.processes import finestream, processes_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(540)]

# Small enough for a test, large enough that a model beats popularity and a taste can be learnt.
USERS = "120"
SHORT = {"FINESTREAM_TRAINER_MAX_SECONDS": "25"}
FIGURES = {"ndcg@10", "ndcg@20", "hr@10"}


def test_a_generated_catalogue_goes_through_the_whole_system(tmp_path: Path) -> None:
    summary_file, data = tmp_path / "summary.json", tmp_path / "data"
    with finestream(
        "demo", "--users", USERS, "--load-seconds", "8", "--json", str(summary_file), "--keep", str(data), env=SHORT
    ) as demo:
        code = demo.ended(500)
    assert code == 0, demo.output
    summary = json.loads(summary_file.read_text())

    assert summary["lost"] == 0
    assert summary["states_equal"] is True
    assert summary["unanswered_reviews"] == 0
    assert summary["reviews_in"] == summary["opinions"] + summary["dead_letters"]
    assert (summary["users"], summary["items"]) == (int(USERS), 200)
    assert summary["interactions_in"] > 1500

    assert summary["model"].keys() >= FIGURES
    assert summary["baselines"].keys() >= {"popularity", "item_knn"}
    assert all(baseline.keys() >= FIGURES for baseline in summary["baselines"].values())
    assert summary["taste"]["hit_rate"] > summary["taste"]["popular"]

    assert summary["freshness"]["late"] == 0
    for kind in ("interaction", "review"):
        measured = summary["freshness"][kind]
        assert 0 < measured["p50"] <= measured["p95"]
        assert measured["probes"] > 0
    assert summary["freshness"]["interaction"]["p95"] < 1.0

    assert len(summary["rankings"]) == 5
    for ranking in summary["rankings"]:
        assert ranking["rung"] == "full"
        assert ranking["model_version"] == summary["published"]["version"]
        assert len(ranking["items"]) == len(ranking["scores"]) == len(ranking["explanations"]) == 10
        assert all(reason["kind"] for reason in ranking["explanations"])
    assert all(part["holds"] for part in summary["live"].values())
    assert processes_of(data) == {}


@pytest.mark.slow
def test_a_file_is_accounted_for_to_the_last_line(tmp_path: Path) -> None:
    """Real reviews' shapes: an empty text and one over 32 KiB end as dead letters, and nothing else does."""
    lines = [
        {"reviewerID": f"A{n % 12}", "asin": f"B{n % 7}", "unixReviewTime": 1_300_000_000 + 86_400 * n,
         "reviewText": f"Great tone number {n}, but the strap is cheap.", "summary": "ok", "overall": 4.0 + n % 2}
        for n in range(120)
    ]  # fmt: skip
    lines[17]["reviewText"] = ""
    lines[40]["reviewText"] = "x" * (32 * 1024 + 1)
    reviews, summary_file, data = tmp_path / "reviews.json", tmp_path / "summary.json", tmp_path / "data"
    reviews.write_text("\n".join(map(json.dumps, lines)) + "\nthis is no JSON\n")
    with finestream(
        "demo",
        "--reviews",
        str(reviews),
        "--load-seconds",
        "3",
        "--json",
        str(summary_file),
        "--keep",
        str(data),
        env=SHORT,
    ) as demo:
        demo.ended(500)  # so small a file may well be best served by popularity, which no complaint moves
    summary = json.loads(summary_file.read_text())
    assert (summary["interactions_in"], summary["reviews_in"]) == (120, 120), demo.output
    assert summary["dead_letter_reasons"] == {"empty_text": 1, "too_large": 1}
    assert (summary["opinions"], summary["lost"], summary["states_equal"]) == (118, 0, True)
    assert (summary["users"], summary["items"]) == (12, 7)
    assert "line 121 is left out" in demo.output
    assert set(summary["problems"]) <= {"live: complaint"}
    assert processes_of(data) == {}
