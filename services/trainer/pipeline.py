"""The job's middle: a log in, the best model and the report of the comparison out."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.trainer import progress
from services.trainer.settings import TrainerSettings
from shared import logs
from shared.events import user_hash
from shared.graph.state import ItemNode
from shared.models.contract import ItemTable, Servable
from shared.models.dataset import Case, Logged, cases, items_before, moments
from shared.models.evaluation import Result, evaluate, servable, with_history
from shared.models.features import Schema
from shared.models.fitting import Fitted, Run
from shared.models.item_knn import MAX_ITEMS
from shared.models.registry import MODELS, config_of
from shared.models.split import Split
from shared.similar_users import EdgeSimilar
from shared.space import Space

log = logs.get(__name__)

MIN_VALIDATION: Final = 20  # targets: with fewer, a comparison is a coin toss and the simple model stays
USER_HASHES: Final = 1 << 63  # of user_hash
LEARNT: Final = "epochs"  # in Fitted.chosen of a model that learns, and so has to be fitted again


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


def train(log_: Logged, space: Space, settings: TrainerSettings) -> Outcome:
    """Fit, compare on validation, measure on the test, refit the winner on everything. Raises NothingToLearn."""
    started = time.monotonic()
    if not log_.times:
        raise NothingToLearn("the archive holds no interaction yet: nothing to learn from")
    schema = Schema(space.embedding_dim, space.opinion_dim, space.attribute_names)
    splits = split(log_, settings)
    until = started + settings.max_seconds
    fitted = candidates_of(log_, space.name, schema, settings, splits, until)
    models: dict[str, Servable] = {name: found.model for name, found in fitted.items()}
    nodes = items_before(log_, splits.validation)
    validated = {name: measure(model, nodes, splits.validation_cases) for name, model in models.items()}
    winner = gate(list(models), validated)
    nodes = items_before(log_, splits.test)
    tested = {name: measure(model, nodes, splits.test_cases) for name, model in models.items()}
    knn = measure_knn(log_, space.name, schema, splits)
    if knn is not None:
        tested["item_knn"] = knn
    everything = Split(log_, space.name, schema)
    fits = list(fitted.values())
    if LEARNT in fitted[winner].chosen:
        fits.append(fit(winner, everything, settings, fitted[winner].chosen, until - time.monotonic()))
        models[winner] = fits[-1].model
    if any(found.cut_short for found in fits):
        log.warning("time ran out: the model has learnt less than it could; raise FINESTREAM_TRAINER_MAX_SECONDS")
    report = _report(log_, settings, splits, winner, validated, tested)
    report["fits"] = {name: _training(found) for name, found in fitted.items() if LEARNT in found.chosen}
    report["seconds"] = round(time.monotonic() - started, 1)
    return Outcome(models[winner], models[winner].encode_items(everything.items), report)


def split(log_: Logged, settings: TrainerSettings) -> Splits:
    """Where test and validation begin, and their cases."""
    validation, test = moments(log_.times, settings.split, settings.validation)
    return Splits(
        validation,
        test,
        _asked(log_, validation, test, settings.asked),
        _asked(log_, test, math.inf, settings.asked),
    )


def _asked(log_: Logged, start: float, end: float, limit: int) -> list[Case]:
    """The cases from start to end of users met before; with more than `limit` interactions, of some users only."""
    share = limit / max(1, log_.before(end) - log_.before(start))
    drawn = cases(log_, start, end, asks=lambda user_id: user_hash(user_id) < share * USER_HASHES)
    return with_history(drawn, start)


def candidates_of(
    log_: Logged, space: str, schema: Schema, settings: TrainerSettings, splits: Splits, until: float
) -> dict[str, Fitted]:
    """The candidates, fitted on what is before validation and chosen on it; where that is too little, the simplest.

    Each may take as much of the time left as each that is still to come, the refit among them.
    """
    names = settings.candidates
    enough = _targets(splits.validation_cases) >= MIN_VALIDATION
    learning = Split(log_.until(splits.validation), space, schema, splits.validation, splits.validation_cases)
    fitted: dict[str, Fitted] = {}
    for name in names if enough else names[:1]:
        share = (until - time.monotonic()) / (len(names) - len(fitted) + 1)
        fitted[name] = fit(name, learning, settings, {}, share)
    return fitted


def fit(name: str, known: Split, settings: TrainerSettings, chosen: Mapping[str, Any], seconds: float) -> Fitted:
    """One candidate; with what an earlier fit has chosen it is fitted again."""
    config = config_of(name, settings.options.get(name, {}), known.schema)
    folder = _checkpoint(settings, f"{name} again" if chosen else name, known.log)
    what = f"{name} learns from everything" if chosen else f"{name} learns"
    with progress.epochs(what, int(chosen.get(LEARNT, getattr(config, "epochs", 0)))) as told:
        run = Run(settings.seed, settings.device, chosen, max(0.0, seconds), folder, told, EdgeSimilar())
        found = MODELS[name].load()[1](known, config, run)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _checkpoint(settings: TrainerSettings, what: str, known: Logged) -> Path | None:
    """Of this fit on this log: after a longer log, what was learnt from a shorter one is of no use."""
    if not settings.checkpoints:
        return None
    return Path(settings.checkpoints) / f"{what} {known.interactions} {known.times[-1]:.0f}".replace(" ", "-")


def gate(names: Sequence[str], validated: dict[str, Result]) -> str:
    """The candidate with the best NDCG@10 on validation; of equals, and where there is too little, the simplest."""
    if validated[names[0]]["targets"] < MIN_VALIDATION:
        return names[0]
    return max(names, key=lambda name: validated[name]["ndcg@10"])


def measure(model: Servable, nodes: Sequence[ItemNode], found: Sequence[Case]) -> Result:
    """The model over a catalogue, on the cases from then on."""
    table = model.encode_items(nodes)
    return evaluate(servable(model, table), found, table.row_of, table.extra["users"].tolist())


def measure_knn(log_: Logged, space: str, schema: Schema, splits: Splits) -> Result | None:
    """Item-kNN fitted on what is before the test; None for a catalogue too large for it, and for an empty one."""
    known = Split(log_.until(splits.test), space, schema, splits.test)
    if not 0 < len(known.items) <= MAX_ITEMS:
        return None
    config, fit_knn = MODELS["item_knn"].load()
    scorer = fit_knn(known, config(), Run()).scorer
    return evaluate(scorer, splits.test_cases, known.row_of, known.counts.tolist())


def _targets(found: Sequence[Case]) -> int:
    return sum(len(case.targets) for case in found)


def _report(
    log_: Logged, settings: TrainerSettings, splits: Splits, winner: str,
    validated: dict[str, Result], tested: dict[str, Result],
) -> dict[str, Any]:  # fmt: skip
    figures = {name: _figures(result) for name, result in tested.items()}
    enough = _targets(splits.validation_cases) >= MIN_VALIDATION
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
        "log": {"interactions": log_.interactions, "users": log_.user_count, "items": log_.item_count},
    }


def _figures(result: Result) -> dict[str, Any]:
    return {**result.overall, "head_items": result.head_items, "tail_items": result.tail_items}


def _training(fitted: Fitted) -> dict[str, Any]:
    return {**fitted.chosen, "seconds": round(fitted.seconds, 1), "cut_short": fitted.cut_short}
