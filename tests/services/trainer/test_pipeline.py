import math
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from services.trainer import pipeline, report
from services.trainer.settings import TrainerSettings
from shared.models.dataset import Log, cases, read_log
from shared.models.evaluation import Result
from shared.models.finestream import Finestream
from shared.models.fitting import Fitted
from shared.models.popularity import Popularity
from shared.space import Attribute, Space
from tests.shared.models.worlds import ATTRIBUTES, SCHEMA, SPACE, START, interaction, noise, tastes

DEFINED = Space(SPACE, "test", 12, 4, tuple(Attribute(name, ()) for name in ATTRIBUTES))
SMALL = {"epochs": 12, "d": 16, "batch": 128, "learning_rate": 5e-3, "windows": 4, "rank": 8}
SETTINGS = TrainerSettings(options={"finestream": SMALL})


def log(events: object) -> Log:
    return read_log(events, SPACE)  # type: ignore[arg-type]


def result(ndcg: float, targets: float) -> Result:
    return Result({"ndcg@10": ndcg, "targets": targets}, {}, {}, {})


def test_tastes_publish_the_model_and_say_by_how_much(tmp_path: Path) -> None:
    outcome = pipeline.train(log(tastes()), DEFINED, SETTINGS)
    told = outcome.report
    assert told["published"] == "finestream"
    assert isinstance(outcome.model, Finestream)
    assert told["model"]["ndcg@10"] > 1.5 * told["baselines"]["popularity"]["ndcg@10"]
    assert set(told["baselines"]) == {"popularity", "item_knn"}
    for figures in (told["model"], *told["baselines"].values()):
        assert all(0 <= figures[name] <= 1 for name in ("ndcg@10", "ndcg@20", "hr@10"))
    assert told["validation"]["finestream"]["ndcg@10"] == max(v["ndcg@10"] for v in told["validation"].values())
    assert "| finestream |" in report.markdown(told)
    assert report.table(told).row_count == 4


def test_llm_esr_learns_from_users_that_the_vector_index_finds_alike() -> None:
    options = {"llmesr": {"epochs": 2, "d": 8, "distillation": True}}
    settings = TrainerSettings(models="popularity,llmesr", options=options)
    told = pipeline.train(log(tastes(users=80)), DEFINED, settings).report
    assert told["fits"]["llmesr"]["epochs"] <= 2


def test_popularity_need_not_be_a_candidate() -> None:
    told = pipeline.train(log(tastes(users=40)), DEFINED, TrainerSettings(models="recency_popularity")).report
    assert told["published"] == "recency_popularity"


def test_a_fit_may_take_the_time_that_those_before_it_left() -> None:
    asked: dict[str, float] = {}

    def fit(name: str, _: object, __: object, ___: object, seconds: float) -> Fitted:
        asked[name] = seconds
        return Fitted(lambda cases: torch.zeros(len(cases), 0))

    with patch.object(pipeline, "fit", fit):
        found = log(tastes(users=40))
        pipeline.candidates_of(found, SPACE, SCHEMA, SETTINGS, pipeline.split(found, SETTINGS), time.monotonic() + 120)
    assert asked["popularity"] == pytest.approx(30, abs=1)
    assert asked["finestream"] == pytest.approx(60, abs=1)


def test_the_published_table_holds_every_item_as_it_is_now() -> None:
    events = [*tastes(), interaction("u1", "late", START + 400 * 86_400.0)]
    outcome = pipeline.train(log(events), DEFINED, SETTINGS)
    assert len(outcome.table) == 61
    assert outcome.table.extra["users"][outcome.table.row_of["late"]] == 1
    if isinstance(outcome.model, Finestream):  # fitted again on the whole log, the newest item has an ID
        assert "late" in outcome.model.row_of


def test_where_there_is_nothing_to_learn_the_gate_keeps_what_is_best_on_validation() -> None:
    told = pipeline.train(log(noise()), DEFINED, SETTINGS).report
    best = max(told["validation"], key=lambda name: told["validation"][name]["ndcg@10"])
    assert told["published"] == best


def test_the_gate_takes_the_best_the_simplest_of_equals_and_no_coin_toss() -> None:
    names = ["popularity", "finestream"]
    assert pipeline.gate(names, {"popularity": result(0.1, 500), "finestream": result(0.2, 500)}) == "finestream"
    assert pipeline.gate(names, {"popularity": result(0.2, 500), "finestream": result(0.1, 500)}) == "popularity"
    assert pipeline.gate(names, {"popularity": result(0.1, 500), "finestream": result(0.1, 500)}) == "popularity"
    assert pipeline.gate(names, {"popularity": result(0.1, 5), "finestream": result(0.9, 5)}) == "popularity"


@pytest.mark.parametrize("count", [1, 2, 15])
def test_a_tiny_log_publishes_popularity(count: int) -> None:
    outcome = pipeline.train(
        log([interaction(f"u{n % 3}", f"i{n}", START + n) for n in range(count)]), DEFINED, SETTINGS
    )
    assert outcome.report["published"] == "popularity"
    assert isinstance(outcome.model, Popularity)
    assert len(outcome.table) == count
    assert outcome.report["model"]["ndcg@10"] >= 0
    assert "too few" in report.markdown(outcome.report)


def test_an_empty_log_is_told_in_one_sentence() -> None:
    with pytest.raises(pipeline.NothingToLearn, match="no interaction"):
        pipeline.train(log([]), DEFINED, SETTINGS)


def test_validation_and_test_are_later_than_what_is_learnt() -> None:
    read = log(tastes())
    splits = pipeline.split(read, SETTINGS)
    assert read.before(splits.test) >= 0.8 * read.interactions
    assert splits.validation < splits.test
    assert all(splits.validation <= case.ts < splits.test for case in splits.validation_cases)
    assert all(case.ts >= splits.test for case in splits.test_cases)
    assert len(splits.test_cases) <= len(cases(read, splits.test, math.inf))


def test_a_long_test_asks_some_users_whole_and_the_same_every_time() -> None:
    found = log(tastes())
    whole = pipeline.split(found, SETTINGS).test_cases
    few = pipeline.split(found, SETTINGS.model_copy(update={"asked": 100}))
    again = pipeline.split(found, SETTINGS.model_copy(update={"asked": 100}))
    assert few == again
    assert 50 < sum(len(case.targets) for case in few.test_cases) < 200
    drawn = {case.user.user_id for case in few.test_cases}
    assert few.test_cases == [case for case in whole if case.user.user_id in drawn]
    assert pipeline.split(found, SETTINGS.model_copy(update={"asked": 10**9})).test_cases == whole


@pytest.mark.slow
def test_the_memory_of_a_training_does_not_grow_with_the_log(tmp_path: Path) -> None:
    peaks = []
    for events in (10_000, 100_000):
        ran = subprocess.run(
            [sys.executable, "-m", "tests.services.trainer.measured", str(events), str(tmp_path / str(events))],
            check=True, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        peaks.append(int(ran.stdout.splitlines()[-1]))  # what is logged comes first
    assert peaks[1] < 1.15 * peaks[0], peaks
