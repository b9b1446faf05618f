"""The training loop: what it keeps, when it stops, and that neither a kill nor a second process changes the result."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from shared.errors import FailedPrecondition
from shared.models.evaluation import evaluate
from shared.models.fitting import Run
from shared.models.split import Split
from shared.models.training import Options, fitted, learn, seed, validator
from tests.parts import free_port
from tests.shared.models.learners import OPTIONS, Learner, fit, world


@pytest.fixture(scope="module")
def split() -> Split:
    return world()


@pytest.fixture(scope="module")
def whole(split: Split) -> tuple[Learner, Any]:
    """A fit that nothing disturbed."""
    return fit(split, Run())


class Line:
    """One weight matrix and one bias, pulled to 1 by a step an epoch; `reached` is what validation says by epoch."""

    def __init__(self, *reached: float) -> None:
        self.network = nn.Linear(1, 1)
        nn.init.zeros_(self.network.weight)
        nn.init.zeros_(self.network.bias)
        self.reached = list(reached)
        self.seen: list[float] = []  # the weight at each validation

    def batches(self, rng: np.random.Generator) -> Iterator[Tensor]:
        yield torch.ones(4, 1)

    def loss(self, batch: Tensor) -> tuple[Tensor, int]:
        return ((self.network(batch) - 1) ** 2).mean(), len(batch)

    def validate(self) -> float:
        assert not self.network.training
        assert not torch.is_grad_enabled()
        self.seen.append(float(self.network.weight))
        return self.reached[len(self.seen) - 1]


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# what is kept and when it stops


def test_the_best_weights_are_kept_and_patience_ends_the_fit() -> None:
    line = Line(0.1, 0.5, 0.3, 0.5, 0.4)
    learnt = learn(line, Options(epochs=20, patience=3), Run())
    assert (learnt.epochs, learnt.reached, len(learnt.curve)) == (2, 0.5, 5)
    assert line.network.weight.item() == line.seen[1] != line.seen[4]


def test_chosen_epochs_are_run_exactly_and_nothing_is_validated() -> None:
    line = Line()
    learnt = learn(line, Options(epochs=2, patience=1), Run(chosen={"epochs": 7}))
    assert learnt.epochs == len(learnt.curve) == 7
    assert line.seen == []
    assert math.isnan(learnt.reached)


def test_a_refit_with_the_chosen_epochs_retraces_the_fit(split: Split, whole: tuple[Learner, Any]) -> None:
    learner, learnt = whole
    again, _ = fit(split, Run(chosen={"epochs": learnt.epochs}))
    assert same(weights(learner.network), weights(again.network))


def test_without_validation_the_newest_weights_are_kept() -> None:
    line = Line(*[math.nan] * 9)
    learnt = learn(line, Options(epochs=9, patience=2), Run())
    assert (learnt.epochs, len(learnt.curve)) == (9, 9)
    assert line.network.weight.item() > line.seen[0]


def test_a_fit_learns_something(whole: tuple[Learner, Any]) -> None:
    curve = whole[1].curve
    assert curve[-1][1] < curve[0][1] - 0.3
    assert whole[1].reached > curve[0][2] + 0.05


def test_the_seed_decides_everything(split: Split, whole: tuple[Learner, Any]) -> None:
    torch.rand(7)
    again, learnt = fit(split, Run())
    other, _ = fit(split, Run(seed=2))
    assert same(weights(again.network), weights(whole[0].network))
    assert learnt.curve == whole[1].curve
    assert not same(weights(other.network), weights(whole[0].network))


def test_targets_are_counted_and_every_epoch_is_reported(split: Split) -> None:
    told: list[tuple[int, float, float]] = []
    learner, learnt = fit(split, Run(report=lambda *point: told.append(point)), replace(OPTIONS, epochs=3))
    assert told == list(learnt.curve)
    assert [epoch for epoch, _, _ in told] == [1, 2, 3]
    assert learnt.samples == 3 * len(split.sequences.asked_for)
    got = fitted(learnt, learner.score, learner.network, personal=0.5)
    assert got.chosen == {"epochs": learnt.epochs, "personal": 0.5}
    assert got.parameters == sum(p.numel() for p in learner.network.parameters())
    assert got.samples == learnt.samples
    assert got.seconds > 0


def test_the_reported_loss_is_the_mean_over_targets(split: Split) -> None:
    _, learnt = fit(split, Run(), replace(OPTIONS, epochs=1, learning_rate=1e-9), dropout=0.0)
    seed(1)
    fresh = Learner(split, 0.0)
    each = [fresh.loss(batch) for batch in fresh.batches(np.random.default_rng(5))]
    mean = sum(loss.item() * count for loss, count in each) / sum(count for _, count in each)
    assert learnt.curve[0][1] == pytest.approx(mean, rel=1e-5)


def test_time_ends_a_fit_in_the_middle_of_an_epoch(split: Split) -> None:
    _, learnt = fit(split, Run(max_seconds=0.0))
    assert learnt.cut_short
    assert 0 < learnt.samples < len(split.sequences.asked_for)


def test_a_fit_that_ends_by_itself_is_not_cut_short(whole: tuple[Learner, Any]) -> None:
    assert not whole[1].cut_short


# a step


def test_vectors_do_not_decay() -> None:
    line = Line(math.nan)
    line.network.weight.data.fill_(2.0)
    line.network.bias.data.fill_(2.0)
    line.loss = lambda batch: (0.0 * line.network(batch).sum(), 4)  # type: ignore[method-assign]
    learn(line, Options(epochs=1, learning_rate=0.1, weight_decay=0.5), Run())
    assert line.network.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5))
    assert line.network.bias.item() == 2.0


def test_the_learning_rate_rises_over_the_warmup() -> None:
    line = Line(*[0.1 * n for n in range(1, 7)])
    learn(line, Options(epochs=6, learning_rate=0.01, warmup=4), Run())
    moved = np.diff([0.0, *line.seen])  # Adam's steps are about as long as the learning rate
    assert moved == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01], rel=0.05)


def test_gradients_are_clipped_together() -> None:
    line = Line(math.nan)
    learn(line, Options(epochs=1, clip=1e-3), Run())
    grads = torch.cat([p.grad.flatten() for p in line.network.parameters() if p.grad is not None])
    assert float(grads.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_the_mean_of_the_weights_is_what_is_validated_and_kept() -> None:
    line, plain = Line(*[0.1, 0.2, 0.3]), Line(*[0.1, 0.2, 0.3])
    learn(plain, Options(epochs=3, learning_rate=0.1), Run())
    learn(line, Options(epochs=3, learning_rate=0.1, ema=0.5), Run())
    mean, expected = 0.0, []
    for step, weight in enumerate(plain.seen):
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weight
        expected.append(mean)
    assert line.seen == pytest.approx(expected)
    assert line.network.weight.item() == pytest.approx(expected[-1])


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_the_fit(where: str) -> None:
    line = Line(math.nan, math.nan, math.nan)

    def loss(batch: Tensor) -> tuple[Tensor, int]:
        out = line.network(batch).mean()
        return (out * math.inf if where == "loss" else (out - out.detach()).abs().sqrt()), 1

    line.loss = loss  # type: ignore[method-assign]
    with pytest.raises(FailedPrecondition, match="loss is not finite in epoch 1, step 1"):
        learn(line, Options(epochs=3), Run())


def test_a_compiled_network_learns_the_same() -> None:
    pytest.importorskip("torch._dynamo")
    line, plain = Line(0.1, 0.2), Line(0.1, 0.2)
    called: list[bool] = []
    line.network.compile = lambda **_: called.append(True)  # type: ignore[method-assign]
    learn(line, Options(epochs=2, compile=True), Run())
    learn(plain, Options(epochs=2), Run())
    assert called == [True]
    assert line.seen == plain.seen


# a kill


def child(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.shared.models.learners", str(folder), *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_fit_goes_on_to_the_very_same_weights(
    tmp_path: Path, split: Split, whole: tuple[Learner, Any]
) -> None:
    assert child(tmp_path, "--kill-in", "4").wait(120) == -signal.SIGKILL
    told: list[int] = []
    run = Run(checkpoint=tmp_path / "checkpoint", report=lambda epoch, *_: told.append(epoch))
    learner, learnt = fit(split, run)
    assert told == [4, 5], "three whole epochs were kept"
    assert same(weights(learner.network), weights(whole[0].network))
    assert (learnt.curve, learnt.samples, learnt.epochs) == (whole[1].curve, whole[1].samples, whole[1].epochs)


def test_a_fit_that_has_ended_is_not_done_again(tmp_path: Path, split: Split, whole: tuple[Learner, Any]) -> None:
    run = Run(checkpoint=tmp_path)
    fit(split, run)
    again, learnt = fit(split, replace(run, report=lambda *_: pytest.fail("an epoch was run")))
    assert same(weights(again.network), weights(whole[0].network))
    assert learnt.curve == whole[1].curve


def test_a_fit_that_time_ended_goes_on_from_its_last_whole_epoch(
    tmp_path: Path, split: Split, whole: tuple[Learner, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def in_epoch_three(epoch: int, loss: float, reached: float) -> None:
        now[0] = math.inf if epoch == 2 else 0.0

    with monkeypatch.context() as patched:
        patched.setattr("time.monotonic", lambda: now[0])
        _, torn = fit(split, Run(checkpoint=tmp_path, max_seconds=9.0, report=in_epoch_three))
    told: list[int] = []
    learner, learnt = fit(split, Run(checkpoint=tmp_path, report=lambda epoch, *_: told.append(epoch)))
    assert told == [3, 4, 5]
    assert torn.cut_short
    assert not learnt.cut_short
    assert same(weights(learner.network), weights(whole[0].network))


def test_the_best_weights_of_before_a_kill_are_kept(tmp_path: Path) -> None:
    options, run = Options(epochs=4), Run(checkpoint=tmp_path)
    line = Line(0.5, 0.3)
    with pytest.raises(IndexError):  # as sudden as a kill: validation ends in the third epoch
        learn(line, options, run)
    again = Line(0.4, 0.1)
    learnt = learn(again, options, run)
    assert (learnt.epochs, learnt.reached, len(again.seen)) == (1, 0.5, 2)
    assert again.network.weight.item() == line.seen[0]


@pytest.mark.parametrize(
    ("run", "options", "dropout", "named"),
    [
        (Run(seed=2), OPTIONS, 0.3, "seed"),
        (Run(), replace(OPTIONS, learning_rate=0.02), 0.3, "options"),
        (Run(), OPTIONS, 0.4, "settings"),
        (Run(chosen={"epochs": 1}), OPTIONS, 0.3, "chosen"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(
    tmp_path: Path, split: Split, run: Run, options: Options, dropout: float, named: str
) -> None:
    fit(split, Run(checkpoint=tmp_path), replace(OPTIONS))
    with pytest.raises(FailedPrecondition, match=f"^the checkpoint in .* is of another fit: {named} differ$"):
        fit(split, replace(run, checkpoint=tmp_path), options, dropout)


# several processes


def test_two_processes_learn_what_one_does(tmp_path: Path, split: Split) -> None:
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    both = [child(tmp_path, "--dropout", "0", RANK=str(rank), **common) for rank in range(2)]
    samples = [int(process.communicate(timeout=120)[0]) for process in both]
    one, learnt = fit(split, Run(), dropout=0.0)
    assert samples == [learnt.samples] * 2
    first, second = (load_file(tmp_path / f"weights{rank}.safetensors") for rank in range(2))
    assert same(first, second)
    for name, tensor in weights(one.network).items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-4)


# validation


def test_validation_asks_the_same_sample_every_time(split: Split) -> None:
    asked: list[list[tuple[float, str]]] = []

    def scorer(found: Any) -> Tensor:
        asked.append([(case.ts, case.user.user_id) for case in found])
        return torch.rand(len(found), len(split.items))

    validate, another = validator(split, scorer, limit=20), validator(split, scorer, limit=20)
    validate(), validate(), another()
    assert len(asked[0]) == 20
    assert asked[0] == asked[1] == asked[2]


def test_validation_is_ndcg_at_10_of_what_is_held_out(split: Split) -> None:
    table = torch.rand(len(split.items), generator=torch.Generator().manual_seed(0))
    scorer = lambda found: table.expand(len(found), -1)  # noqa: E731
    expected = evaluate(scorer, split.held_out, split.row_of, split.counts.tolist())["ndcg@10"]
    assert 0 < expected < 1
    assert validator(split, scorer)() == expected
    assert math.isnan(validator(replace(split, held_out=()), scorer)())


def test_where_items_repeat_validation_does_not_mask_them(split: Split) -> None:
    case = next(case for case in split.held_out if case.user.interactions)
    met = case.user.interactions[0].item_id
    again = replace(split, held_out=[replace(case, targets=(met,))], repeats=True)

    def scorer(found: Any) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor([split.row_of[met]]), len(split.items)).float()

    assert validator(again, scorer)() == 1.0
    assert validator(replace(again, repeats=False), scorer)() == 0.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_network_runs_in_bfloat16(split: Split) -> None:
    kinds: set[torch.dtype] = set()
    seed(1)
    learner = Learner(split, device="cuda")
    learner.network.gru.register_forward_hook(lambda *found: kinds.add(found[2][0].dtype) and None)
    learnt = learn(learner, OPTIONS, Run(device="cuda"))
    assert torch.bfloat16 in kinds
    assert learnt.curve[-1][1] < learnt.curve[0][1]
