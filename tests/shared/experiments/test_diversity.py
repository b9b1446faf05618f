"""shared/experiments/diversity.py: strength 0 is what `evaluate` measures, and more strength is more unlike."""

from pathlib import Path

import numpy as np
import pytest

from shared.experiments.config import read
from shared.experiments.diversity import Pools, measure, measured, pools_of
from shared.experiments.tasks import load
from shared.models import diversity
from shared.models.evaluation import rank, servable
from shared.models.fitting import Run
from shared.models.sasrec import Config, fit
from tests.shared.experiments.small import write_config, write_log

SASREC = '[[model]]\nkind = "sasrec"\n[[model]]\nkind = "item_knn"\n'


def made_up(cases: int = 60, items: int = 40) -> Pools:
    numbers = np.random.default_rng(1)
    vectors = diversity.unit(numbers.normal(size=(items, 6)))
    scores = numbers.normal(size=(cases, 6)) @ vectors.T
    order = np.argsort(-scores, axis=1)[:, :25]
    return Pools(
        list(order), [diversity.relevance(scores[case, rows]) for case, rows in enumerate(order)],
        [[int(rows[0]), -1] for rows in order], [f"u{case % 20}" for case in range(cases)], vectors, np.zeros((items, 0)),
    )  # fmt: skip


def test_a_row_of_none_and_one_for_each_method_and_strength() -> None:
    rows = measure(made_up(), (0.0, 0.5, 1.0), ("mmr", "dpp"))
    assert [(row.method, row.strength) for row in rows] == [
        ("none", 0.0), ("mmr", 0.5), ("mmr", 1.0), ("dpp", 0.5), ("dpp", 1.0),
    ]  # fmt: skip
    none, mmr, full, dpp, _ = rows
    assert none.ndcg == none.hr == 0.5  # every first place is a target; the other target is in no catalogue
    assert none.difference == 0.0
    assert none.unlike < mmr.unlike < full.unlike
    assert none.unlike < dpp.unlike
    assert none.unlike_text is None
    assert all(0 < row.coverage <= 1 for row in rows)


def test_without_diversity_the_figures_are_those_of_evaluate(tmp_path: Path) -> None:
    experiment = read(str(write_config(write_log(tmp_path) / "small.toml")), tmp_path)
    task = load(experiment.spec)
    fitted = fit(task.test, Config(), Run(chosen={"epochs": 1}))
    table = fitted.model.encode_items(task.test.items)
    expected = rank(servable(fitted.model, table), task.cases, task.test.row_of).figures
    (none,) = measure(pools_of(task, fitted.model, 20), (), ())
    assert none.ndcg == pytest.approx(expected["ndcg@10"].mean(), abs=1e-6)
    assert none.hr == pytest.approx(expected["hr@10"].mean(), abs=1e-6)


def test_a_label_there_is_none_of_and_a_model_without_vectors_are_told(tmp_path: Path) -> None:
    experiment = read(str(write_config(write_log(tmp_path) / "small.toml", SASREC)), tmp_path)
    with pytest.raises(ValueError, match="there is no model 'x'; there are sasrec, item_knn"):
        measured(experiment, "x", 1, 20, "cpu", print)
    with pytest.raises(ValueError, match="has no item vectors"):
        measured(experiment, "item_knn", 1, 20, "cpu", print)
