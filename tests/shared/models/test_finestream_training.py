import math
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.events import Event
from shared.models import finestream_training as ft
from shared.models import fused_softmax
from shared.models.dataset import cases, read_log
from shared.models.evaluation import Result, Scorer, evaluate, with_history
from shared.models.features import user_features
from shared.models.finestream_choice import Chooser, choice_of
from shared.models.finestream_network import Config
from shared.models.fitting import Fitted, Run
from shared.models.popularity import Popularity
from shared.models.split import Split
from tests.shared.models.worlds import CONFIG, DAY, SCHEMA, SPACE, START, interaction, noise, opinions, tastes

SPLIT = START + 240 * DAY
VALIDATION = START + 200 * DAY
SMALL = replace(CONFIG, epochs=12, windows=4, batch=128, learning_rate=5e-3, rank=8)


def known(events: Sequence[Event], at: float = SPLIT, until: float | None = None) -> Split:
    """What is before `at`; with `until`, what is asked from then on is held out."""
    log = read_log(events, SPACE)
    held_out = with_history(cases(log, at, until), at) if until is not None else ()
    return Split(log.until(at), SPACE, SCHEMA, at, held_out)


def fitted(events: Sequence[Event], epochs: int = 12, config: Config = SMALL, run: Run | None = None) -> Fitted:
    return ft.fit(known(events), config, run or Run(chosen={"epochs": epochs}))


def on_test(events: Sequence[Event], scorer: Scorer) -> Result:
    log, split = read_log(events, SPACE), known(events)
    found = with_history(cases(log, SPLIT, math.inf), SPLIT)
    return evaluate(scorer, found, split.row_of, split.counts.tolist())


def popular(events: Sequence[Event]) -> Scorer:
    table = Popularity(SPACE).encode_items(known(events).items)
    return lambda batch: table.bias.expand(len(batch), -1)


@pytest.mark.parametrize("neighbour_view", [False, True])
def test_it_learns_tastes_that_popularity_cannot_see(neighbour_view: bool) -> None:
    config = replace(SMALL, neighbour_view=neighbour_view)
    learnt = on_test(tastes(), fitted(tastes(), config=config).scorer)
    assert learnt["targets"] > 100
    assert learnt["hr@10"] > 2 * on_test(tastes(), popular(tastes()))["hr@10"]


def test_the_neighbours_alone_see_tastes() -> None:
    blind = replace(SMALL, co_view=False, se_view=False, fine_view=False)
    seen = on_test(tastes(), fitted(tastes(), 1, blind).scorer)
    assert seen["hr@10"] > 2 * on_test(tastes(), popular(tastes()))["hr@10"]


def test_on_random_labels_it_is_at_chance() -> None:
    got = on_test(noise(), fitted(noise()).scorer)
    chance = 10 / 55  # of 60 items, less the few of a history
    deviation = math.sqrt(chance * (1 - chance) / got["targets"])
    assert abs(got["hr@10"] - chance) < 3 * deviation


def test_moving_facts_into_the_future_changes_nothing_for_earlier_samples() -> None:
    events = tastes()
    early = [event for event in events if event.ts < VALIDATION]  # type: ignore[union-attr]
    assert len(early) < len(events)
    model = fitted(early, 1).model
    model.network.eval()
    losses = []
    for told in (events, early):
        split = known(told)
        windows = ft.prepare(split, model, [c for c in split.training if c.ts < VALIDATION], 4)
        batches = [ft.Batch(window, torch.arange(len(window))) for window in windows]
        losses.append([float(ft.batch_loss(model.network, batch)[1].detach()) for batch in batches])
    assert losses[0] == losses[1]


def test_a_window_shows_no_item_before_it_is_known() -> None:
    late = [interaction("v", "old", START + DAY), interaction("v", "new", START + 3 * DAY)]
    split = known([interaction("u", "old", START), interaction("u", "new", START + 2 * DAY), *late], math.inf)
    found = ft.prepare(split, ft.start(split, SMALL, "cpu"), split.training, 4)
    assert [(len(window.id_rows), window.targets.tolist()) for window in found] == [(1, [0]), (2, [0])]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_a_batch_holds_exactly_its_cases(seed: int, size: int) -> None:
    rng = random.Random(seed)
    events: list[Event] = []
    for n in range(40):
        user, item, ts = f"u{rng.randrange(6)}", f"i{rng.randrange(9)}", START + n * DAY
        events.append(interaction(user, item, ts))
        if rng.random() < 0.5:
            events.append(opinions(rng, user, item, ts))
    split = known(events, math.inf)
    (window,) = ft.prepare_with(ft.start(split, SMALL, "cpu"), split.items, split.training, split)
    chosen = torch.tensor(rng.sample(range(len(window)), min(size, len(window))))
    asked = [case for case in split.training if case.targets]
    expected = user_features([asked[at].user for at in chosen.tolist()], split.row_of, SCHEMA, 8, "cpu")
    got = window.take(chosen)
    assert torch.equal(got.real, expected.real)
    assert torch.equal(got.history * got.real, expected.history)
    for name in ("node", "attribute", "opinion", "polarity", "item"):
        assert torch.equal(getattr(got.edges, name), getattr(expected.edges, name))
    case, target = window.asked(chosen)
    targets = [(at, split.row_of[t]) for at, c in enumerate(chosen.tolist()) for t in asked[c].targets]
    assert list(zip(case.tolist(), target.tolist(), strict=True)) == targets


def test_the_loss_of_a_sample_of_the_catalogue_is_about_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted(tastes(), 3).model
    model.network.eval()
    split = known(tastes())
    (window,) = ft.prepare_with(model, split.items, split.training, replace_repeats(split))
    batch = ft.Batch(window, torch.arange(64))
    _, exact, count = ft.batch_loss(model.network, batch)
    monkeypatch.setattr(ft, "FULL_SOFTMAX_ITEMS", 10)
    torch.manual_seed(0)
    sampled = [ft.batch_loss(model.network, batch) for _ in range(5)]
    assert all(same == count for _, _, same in sampled)
    assert torch.allclose(sampled[0][0], ft.batch_loss(model.network, batch)[0], atol=1e-5)  # the users are the same
    assert float(sum(loss.detach() for _, loss, _ in sampled)) / 5 == pytest.approx(float(exact.detach()), rel=0.03)


@pytest.mark.parametrize("masked", [True, False])
def test_a_catalogue_too_large_for_a_cache_gives_the_same_loss_and_gradients(
    monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    model = fitted(tastes(), 3).model
    model.network.eval()
    split = known(tastes())
    (window,) = ft.prepare_with(model, split.items, split.training, split if masked else replace_repeats(split))
    got = []
    for held in (1 << 23, 1):
        monkeypatch.setattr(fused_softmax, "HELD", {"cpu": held})
        monkeypatch.setattr(fused_softmax, "AT_ONCE", {"cpu": 1000})
        model.network.zero_grad()
        _, loss, _ = ft.batch_loss(model.network, ft.Batch(window, torch.arange(64)))
        loss.backward()
        got.append([loss.detach(), *(p.grad.clone() for p in model.network.parameters())])
    torch.testing.assert_close(got[0], got[1], rtol=1e-4, atol=1e-6)


def replace_repeats(split: Split) -> Split:
    return replace(split, repeats=True)  # nothing masked: the sampled loss masks nothing


def test_validation_stops_the_training_and_the_best_weights_stay() -> None:
    split = known(noise(), VALIDATION, SPLIT)
    told: list[float] = []
    run = Run(report=lambda _, __, reached: told.append(reached))
    found = ft.fit(split, replace(SMALL, epochs=40, patience=2, learning_rate=2e-2), run)
    assert len(told) < 40
    assert found.chosen["epochs"] == told.index(max(told)) + 1
    found.model.network.eval()
    with torch.no_grad():
        assert ft.Learner(found.model, split, None).validate() == pytest.approx(max(told), abs=1e-4)


def test_a_refit_takes_what_was_chosen() -> None:
    split = known(tastes(), VALIDATION, SPLIT)
    first = ft.fit(split, replace(SMALL, epochs=2), Run())
    assert set(first.chosen) == {"epochs", "rank", "sharpness", "decay", "neighbours", "personal"}
    chosen = {"epochs": 1, "rank": 5, "sharpness": 1.0, "decay": 0.4, "neighbours": 2.0, "personal": 0.5}
    again = ft.fit(known(tastes()), SMALL, Run(chosen=chosen))
    assert again.chosen == chosen
    assert choice_of(again.model.config) == (5, 1.0, 0.4, 2.0, 0.5)
    assert again.model.neighbours.rank == 5


def test_weights_change_only_for_what_is_surely_better() -> None:
    blind = replace(SMALL, co_view=False, se_view=False, fine_view=False, neighbours=0.0, rank=16)
    split = known(tastes(), VALIDATION, SPLIT)
    model = ft.start(split, blind, "cpu")
    told = Chooser(model, split).choose()
    assert told.neighbours > 0  # they see what nothing else does
    assert told.personal == blind.personal  # whatever it is, it changes nothing
    split = known(noise(), VALIDATION, SPLIT)
    model = ft.start(split, SMALL, "cpu")
    assert Chooser(model, split).choose() == (SMALL.rank, 1.5, 1.0, 0.7, 1.0)


def test_a_fit_keeps_to_its_time() -> None:
    found = fitted(tastes(users=400), run=Run(chosen={"epochs": 1000}, max_seconds=1.0))
    assert found.seconds < 20
    assert found.cut_short


def test_the_same_seed_gives_the_same_scores() -> None:
    asked = known(tastes(users=40)).training[-50:]
    a, b, other = (fitted(tastes(users=40), run=Run(seed=s, chosen={"epochs": 2})).scorer(asked) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.allclose(a, other, atol=1e-3)


def test_a_log_without_a_known_target_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to learn"):
        ft.fit(known([interaction("u", "i", START)], math.inf), SMALL, Run())


def nearest(vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """All pairs, which a test may do."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -2)
    rows = np.argsort(-alike, axis=1)[:, :k]
    return rows, np.take_along_axis(alike, rows, 1)


def test_self_distillation_moves_users_towards_those_like_them() -> None:
    config = replace(SMALL, distillation=100.0, epochs=3)
    chosen = {"epochs": 3}
    alone = ft.fit(known(tastes()), replace(config, distillation=0.0), Run(chosen=chosen))
    taught = ft.fit(known(tastes()), config, Run(chosen=chosen, similar=nearest))

    def spread(found: Fitted) -> float:
        split = known(tastes())
        table = found.model.encode_items(split.items)
        users = found.model.encode_users([case.user for case in split.training[-60:]], table, 0.0)[:, : 3 * config.d]
        return float(users.std(0).mean())

    assert spread(taught) < 0.8 * spread(alone)


def test_self_distillation_without_an_index_is_refused() -> None:
    with pytest.raises(ValueError, match="vector index"):
        ft.fit(known(tastes()), replace(SMALL, distillation=0.1), Run())
