"""The job's middle: a log in, the best model and the report of the comparison out."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from services.trainer import progress
from services.trainer.fit import Fitted, Options, fit
from services.trainer.settings import TrainerSettings, share_time, split_time
from shared import logs
from shared.events import Interaction
from shared.models.contract import ItemTable, Servable
from shared.models.dataset import Case, Log, cases, items_before
from shared.models.evaluation import Result, evaluate, offline, servable, with_history
from shared.models.features import Schema
from shared.models.finestream import Config, Finestream
from shared.models.item_knn import MAX_ITEMS, ItemKNN
from shared.models.popularity import Config as PopularityConfig
from shared.models.popularity import Popularity
from shared.space import Space

log = logs.get(__name__)

PERSONAL: Final = (1.0, 0.75, 0.5, 0.25, 1.5, 0.0)  # what u . v may count; the first of equals is taken
MIN_VALIDATION: Final = 20  # targets: with fewer, a comparison is a coin toss and the simple model stays
KNN_NEIGHBOURS: Final = 100


@dataclass(frozen=True)
class Splits:
    """Training ends and validation begins at `validation`; both end where the test begins, at `test`."""

    validation: float
    test: float
    validation_cases: list[Case]
    test_cases: list[Case]


@dataclass(frozen=True)
class Outcome:
    """What is published: the model, its table of all items now, and the comparison that chose it."""

    model: Servable
    table: ItemTable
    report: dict[str, Any]


class NothingToLearn(Exception):
    """The log has no interaction: one sentence for the operator."""


def train(log_: Log, space: Space, settings: TrainerSettings) -> Outcome:
    """Fit, compare on validation, measure on the test, refit the winner on everything. Raises NothingToLearn."""
    started = time.monotonic()
    if not log_.times:
        raise NothingToLearn("the archive holds no interaction yet: nothing to learn from")
    splits = split(log_, settings)
    candidates, fitted = candidates_of(log_, space, settings, splits)
    validated = {name: measure(log_, model, splits.validation, splits.validation_cases) for name, model in candidates}
    winner = gate([name for name, _ in candidates], validated)
    tested = {name: measure(log_, model, splits.test, splits.test_cases) for name, model in candidates}
    knn = measure_knn(log_, splits.test, splits.test_cases)
    if knn is not None:
        tested["item_knn"] = knn
    model = dict(candidates)[winner]
    if isinstance(model, Finestream) and fitted is not None:
        again = refit(log_, space, settings, model.config, fitted.epochs)
        fitted = replace(fitted, cut_short=fitted.cut_short or again.cut_short)
        model = again.model
    if fitted is not None and fitted.cut_short:
        log.warning("time ran out: the model has learnt less than it could; raise FINESTREAM_TRAINER_MAX_SECONDS")
    table = model.encode_items(items_before(log_, math.inf))
    report = _report(log_, settings, splits, winner, validated, tested)
    report["finestream"] = _training(fitted, dict(candidates).get("finestream"))
    report["seconds"] = round(time.monotonic() - started, 1)
    return Outcome(model, table, report)


def split(log_: Log, settings: TrainerSettings) -> Splits:
    """Where test and validation begin, and their cases."""
    test = split_time(settings.split, log_.times)
    before = log_.times[: log_.before(test)]
    validation = share_time(1 - settings.validation, before) if before else test
    return Splits(
        validation,
        test,
        with_history(cases(log_, validation, test), validation),
        with_history(cases(log_, test, math.inf), test),
    )


def candidates_of(
    log_: Log, space: Space, settings: TrainerSettings, splits: Splits
) -> tuple[list[tuple[str, Servable]], Fitted | None]:
    """Servable models fitted on what is before validation, the simplest first."""
    recent = PopularityConfig(recency_weight=1.0, half_life_days=settings.half_life_days)
    found: list[tuple[str, Servable]] = [
        ("popularity", Popularity(space.name, device=settings.device)),
        ("recent_popularity", Popularity(space.name, recent, settings.device)),
    ]
    if _targets(splits.validation_cases) < MIN_VALIDATION:
        return found, None
    schema = Schema(space.embedding_dim, space.opinion_dim, space.attribute_names)
    config = Config(
        schema, d=settings.width, layers=settings.layers, dropout=settings.dropout,
        half_life_days=settings.half_life_days,
    )  # fmt: skip
    with progress.epochs("learning", settings.epochs) as report:
        fitted = fit(log_, space.name, config, _options(settings), splits.test, splits.validation, report)
    _choose_personal(log_, fitted.model, splits)
    return [*found, ("finestream", fitted.model)], fitted


def gate(names: Sequence[str], validated: dict[str, Result]) -> str:
    """The candidate with the best NDCG@10 on validation; of equals, and where there is too little, the simplest."""
    if validated[names[0]]["targets"] < MIN_VALIDATION:
        return names[0]
    return max(names, key=lambda name: validated[name]["ndcg@10"])


def refit(log_: Log, space: Space, settings: TrainerSettings, config: Config, epochs: int) -> Fitted:
    """The same model on the whole log, for as many epochs as validation found best."""
    options = replace(_options(settings), epochs=epochs)
    with progress.epochs("learning from everything", epochs) as report:
        return fit(log_, space.name, config, options, math.inf, None, report)


def measure(log_: Log, model: Servable, at: float, found: Sequence[Case]) -> Result:
    """The model over the catalogue as of `at`, on cases from then on."""
    table = model.encode_items(items_before(log_, at))
    return evaluate(servable(model, table), found, table.row_of, table.extra["users"].tolist())


def measure_knn(log_: Log, at: float, found: Sequence[Case]) -> Result | None:
    """Item-kNN fitted on what is before `at`; None for a catalogue too large for it."""
    ids = [node.item_id for node in items_before(log_, at)]
    if len(ids) > MAX_ITEMS:
        return None
    met = [
        [fact.item_id for ts, fact in facts if ts < at and isinstance(fact, Interaction)]
        for facts in log_.by_user.values()
    ]
    knn = ItemKNN(ids, KNN_NEIGHBOURS).fit(met)
    counts = [0.0] * len(ids)
    for items in met:
        for item in set(items):
            counts[knn.row_of[item]] += 1
    return evaluate(offline(knn.score), found, knn.row_of, counts)


def _choose_personal(log_: Log, model: Finestream, splits: Splits) -> None:
    best = -1.0
    for personal in PERSONAL:
        tried = Finestream(
            model.space, replace(model.config, personal=personal), model.ids, model.network, model.device
        )
        reached = measure(log_, tried, splits.validation, splits.validation_cases)["ndcg@10"]
        if reached > best:
            best, model.config = reached, tried.config


def _options(settings: TrainerSettings) -> Options:
    return Options(
        epochs=settings.epochs,
        patience=settings.patience,
        windows=settings.windows,
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_seconds=settings.max_seconds / 2,
        max_cases=settings.max_cases,
        seed=settings.seed,
        device=settings.device,
    )


def _targets(found: Sequence[Case]) -> int:
    return sum(len(case.targets) for case in found)


def _report(
    log_: Log, settings: TrainerSettings, splits: Splits, winner: str,
    validated: dict[str, Result], tested: dict[str, Result],
) -> dict[str, Any]:  # fmt: skip
    figures = {name: _figures(result) for name, result in tested.items()}
    enough = validated["popularity"]["targets"] >= MIN_VALIDATION
    return {
        "published": winner,
        "reason": "best NDCG@10 on validation" if enough else "too few validation targets to compare: the simplest",
        "model": figures[winner],
        "baselines": {name: figures[name] for name in ("popularity", "item_knn") if name in figures},
        "candidates": {name: figures[name] for name in validated},
        "validation": {name: result.overall for name, result in validated.items()},
        "split": {
            "setting": settings.split,
            "validation_from": splits.validation,
            "test_from": splits.test,
            "train_interactions": log_.before(splits.test),
            "validation_targets": _targets(splits.validation_cases),
            "test_targets": _targets(splits.test_cases),
            "test_users": len({case.user.user_id for case in splits.test_cases}),
        },
        "log": {"interactions": log_.interactions, "users": len(log_.by_user), "items": len(log_.by_item)},
    }


def _figures(result: Result) -> dict[str, Any]:
    return {**result.overall, "head_items": result.head_items, "tail_items": result.tail_items}


def _training(fitted: Fitted | None, model: Servable | None) -> dict[str, Any] | None:
    if fitted is None or not isinstance(model, Finestream):
        return None
    return {
        "epochs": fitted.epochs,
        "seconds": round(fitted.seconds, 1),
        "personal": model.config.personal,
        "cut_short": fitted.cut_short,
    }
