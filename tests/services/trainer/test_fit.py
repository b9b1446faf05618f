import math
from dataclasses import replace

import pytest
import torch

from services.trainer.fit import Options, batch_loss, fit, prepare
from shared.models.dataset import Log, cases, items_before, read_log
from shared.models.evaluation import Result, evaluate, servable, with_history
from shared.models.finestream import Finestream
from shared.models.popularity import Popularity
from tests.shared.models.worlds import CONFIG, DAY, SPACE, START, interaction, noise, tastes

SPLIT = START + 240 * DAY
OPTIONS = Options(epochs=15, windows=4, batch=128, learning_rate=5e-3, max_seconds=60.0)


def quiet(epoch: int, trained: float, held_out: float) -> None:
    return None


def trained(log: Log, options: Options = OPTIONS) -> Finestream:
    return fit(log, SPACE, CONFIG, options, SPLIT, None, quiet).model


def on_test(log: Log, model: Finestream | Popularity) -> Result:
    table = model.encode_items(items_before(log, SPLIT))
    found = with_history(cases(log, SPLIT, math.inf), SPLIT)
    return evaluate(servable(model, table), found, table.row_of, table.extra["users"].tolist())


def test_it_learns_tastes_that_popularity_cannot_see() -> None:
    log = read_log(tastes(), SPACE)
    learnt, popular = on_test(log, trained(log)), on_test(log, Popularity(SPACE))
    assert popular["targets"] > 100
    assert learnt["hr@10"] > 2 * popular["hr@10"]


def test_on_random_labels_it_is_at_chance() -> None:
    log = read_log(noise(), SPACE)
    got = on_test(log, trained(log))
    chance = 10 / 55  # of 60 items, less the few of a history
    deviation = math.sqrt(chance * (1 - chance) / got["targets"])
    assert abs(got["hr@10"] - chance) < 3 * deviation


def test_moving_a_fact_into_the_future_changes_nothing_for_earlier_samples() -> None:
    model = fit(read_log(tastes(), SPACE), SPACE, CONFIG, replace(OPTIONS, epochs=1), SPLIT, None, quiet).model
    events = tastes()
    late = [e for e in events if e.ts >= SPLIT]  # type: ignore[union-attr]
    assert late
    losses = []
    for log_ in (events, [e for e in events if e not in late]):
        log = read_log(log_, SPACE)
        windows = prepare(log, model, cases(log, -math.inf, SPLIT), 4)
        model.network.eval()
        losses.append([float(batch_loss(model.network, w, w.cases, "cpu").detach()) for w in windows])
    assert losses[0] == losses[1]


def test_a_window_shows_no_item_before_it_is_known() -> None:
    log = read_log([interaction("u", "old", START), interaction("u", "new", START + 2 * DAY)], SPACE)
    model = fit(read_log(tastes(), SPACE), SPACE, CONFIG, replace(OPTIONS, epochs=1), SPLIT, None, quiet).model
    late = [interaction("v", "old", START + DAY), interaction("v", "new", START + 3 * DAY)]
    log = read_log([interaction("u", "old", START), interaction("u", "new", START + 2 * DAY), *late], SPACE)
    found = prepare(log, model, cases(log, -math.inf, math.inf), 4)
    assert [(list(w.row_of), w.cases[0].targets) for w in found] == [
        (["old"], ("old",)),
        (["new", "old"], ("new",)),
    ]


def test_validation_stops_the_training_and_the_best_weights_stay() -> None:
    log = read_log(noise(), SPACE)
    losses: list[float] = []
    options = replace(OPTIONS, epochs=40, patience=2, learning_rate=2e-2)
    fitted = fit(log, SPACE, CONFIG, options, SPLIT, START + 200 * DAY, lambda _, __, held: losses.append(held))
    assert len(losses) < 40
    assert fitted.loss == min(losses)
    assert fitted.epochs == losses.index(min(losses)) + 1
    windows = prepare(log, fitted.model, cases(log, START + 200 * DAY, SPLIT), 1)
    fitted.model.network.eval()
    with torch.no_grad():
        total = float(batch_loss(fitted.model.network, windows[0], windows[0].cases, "cpu"))
    assert total == pytest.approx(fitted.loss, abs=1e-3)


def test_a_fit_keeps_to_its_time() -> None:
    log = read_log(tastes(users=400), SPACE)
    fitted = fit(log, SPACE, CONFIG, replace(OPTIONS, epochs=1000, max_seconds=1.0), SPLIT, None, quiet)
    assert fitted.seconds < 20
    assert fitted.epochs < 1000
    assert fitted.cut_short


def test_the_same_seed_gives_the_same_weights() -> None:
    log = read_log(tastes(users=40), SPACE)
    a, b = (trained(log, replace(OPTIONS, epochs=2)).network.state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_log_without_a_known_target_is_refused() -> None:
    log = read_log([interaction("u", "i", START)], SPACE)
    with pytest.raises(ValueError, match="nothing to learn"):
        fit(log, SPACE, CONFIG, OPTIONS, math.inf, None, quiet)
