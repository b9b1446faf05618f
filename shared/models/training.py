"""The one training loop: every learnt model's `fit` gives it batches and a loss, and gets the best weights back.

    class Learner: network, batches(rng), loss(batch), validate()
    learnt = learn(learner, Options(...), run, settings=config)
    return fitted(learnt, scorer, network)

An epoch draws all its randomness from (seed, epoch), so a fit that was killed goes on from its last whole epoch to the
very same weights, and a refit with `run.chosen["epochs"]` retraces the fit that chose them.
"""

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from shared.errors import FailedPrecondition
from shared.models import checkpoints
from shared.models.distributed import detached, trained, world
from shared.models.evaluation import Scorer, evaluate
from shared.models.fitting import Fitted, Run
from shared.models.split import Split

CHECKED_EVERY: Final = 50  # steps; asking a GPU for a number waits for it


class Learner(Protocol):
    """What is trained. `loss` and `validate` are called with the network in the right mode."""

    @property
    def network(self) -> nn.Module: ...

    def batches(self, rng: np.random.Generator) -> Iterable[Any]:
        """One epoch, in an order that `rng` alone decides."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, int]:
        """Mean loss over the batch's targets, and how many there are."""
        ...

    def validate(self) -> float:
        """Higher is better; NaN: there is nothing to validate on."""
        ...


@dataclass(frozen=True)
class Options:
    epochs: int = 50  # at most
    patience: int = 5  # epochs without a better validation
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip: float = 1.0  # norm of all gradients together; 0: unclipped
    warmup: int = 0  # steps over which the learning rate rises
    ema: float | None = None  # decay of a running mean of the weights, which then is what is validated and kept
    compile: bool = False  # torch.compile; on a CPU SASRec was .83 times as fast with it, after minutes of compiling


@dataclass(frozen=True)
class Learnt:
    epochs: int  # after which the weights were best; the last one without validation
    reached: float  # then; NaN without validation
    samples: int  # targets learnt from, over all epochs
    seconds: float
    curve: Sequence[tuple[int, float, float]]
    cut_short: bool = False


def seed(number: int) -> None:
    """Before a network is built: its first weights then depend on the seed alone."""
    torch.manual_seed(number)


def learn(learner: Learner, options: Options, run: Run, settings: Any = None) -> Learnt:
    """Train, and leave the best weights in `learner.network`.

    With run.chosen["epochs"] exactly so many epochs and no validation. `settings` is whatever else the result depends
    on: a checkpoint of other settings is refused. Raises FailedPrecondition for that and for a loss that is not
    finite.
    """
    training = Training(learner, options, run, settings)
    training.resume()
    while not training.progress.done:
        training.epoch()
    return training.end()


def fitted(learnt: Learnt, scorer: Scorer, network: nn.Module, model: Any = None, **chosen: Any) -> Fitted:
    """What `fit` answers."""
    return Fitted(
        scorer,
        {"epochs": learnt.epochs, **chosen},
        sum(parameter.numel() for parameter in trained(network)),
        learnt.samples,
        learnt.seconds,
        learnt.curve,
        model,
        learnt.cut_short,
    )


def validator(split: Split, scorer: Scorer, limit: int = 5000, seed: int = 0) -> Callable[[], float]:
    """NDCG@10 over what is held out, or over a sample of `limit` cases that is the same at every call."""
    cases = list(split.held_out)
    if len(cases) > limit:
        kept = random.Random(seed).sample(range(len(cases)), limit)  # noqa: S311
        cases = [cases[at] for at in sorted(kept)]
    if not cases:
        return lambda: math.nan
    return lambda: evaluate(scorer, cases, split.row_of, split.counts.tolist(), repeats=split.repeats)["ndcg@10"]


@dataclass
class _Progress:
    """The scalars of a checkpoint."""

    epoch: int = 0
    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    best: float = math.nan
    best_epoch: int = 0
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    done: bool = False
    cut_short: bool = False


class Training:
    """One run of `learn`, epoch by epoch."""

    def __init__(self, learner: Learner, options: Options, run: Run, settings: Any) -> None:
        self.learner, self.options, self.run, self.network = learner, options, run, learner.network
        self.device = torch.device(run.device)
        self.world = world(self.device)
        self.epochs = int(run.chosen.get("epochs", options.epochs))
        self.validated = "epochs" not in run.chosen
        self.progress = _Progress(done=self.epochs < 1)
        self.started = time.monotonic()
        self.world.agree(self.network)
        self.parameters = trained(self.network)
        self.optimizer = _optimizer(self.parameters, options)
        self.mean = detached(self.network.state_dict().items()) if options.ema is not None else None
        self.best: dict[str, Tensor] | None = None
        self.settings = {
            "options": asdict(options),
            "seed": run.seed,
            "chosen": {name: repr(value) for name, value in sorted(run.chosen.items())},
            "processes": self.world.size,
            "device": self.device.type,
            "settings": repr(settings),
            "weights": {name: list(tensor.shape) for name, tensor in self.network.state_dict().items()},
        }
        if options.compile:
            self.network.compile(dynamic=True)

    # an epoch

    def epoch(self) -> None:
        p = self.progress
        p.epoch += 1
        loss, cut = self._steps()
        reached = self._validate()
        if math.isnan(reached) or not reached <= p.best:
            p.best, p.best_epoch = reached, p.epoch
            self.best = None if math.isnan(reached) else detached(self._kept().items())
        p.curve.append((p.epoch, loss, reached))
        p.done = cut or p.epoch >= self.epochs or p.epoch - p.best_epoch >= self.options.patience
        p.cut_short = cut and p.epoch < self.epochs
        if self.world.rank == 0:
            self.run.report(p.epoch, loss, reached)
            if not cut:  # a torn epoch is done again by whoever has more time
                self._save()

    def _steps(self) -> tuple[float, bool]:
        """One pass over the batches: the mean loss, and whether time ran out on the way."""
        p = self.progress
        torch.manual_seed(_number(self.run.seed, p.epoch, self.world.rank))
        rng = np.random.default_rng([self.run.seed, p.epoch])
        self.network.train()
        losses, samples, cut = torch.zeros((), dtype=torch.float64, device=self.device), 0, False
        for batch in self.learner.batches(rng):
            loss, count, late = self._step(batch)
            losses += loss
            samples += count
            p.steps += 1
            if p.steps % CHECKED_EVERY == 0 or self.device.type == "cpu":
                self._check(losses)
            if late:
                cut = True
                break
        self._check(losses)
        p.samples += samples
        return float(losses) / max(1, samples), cut

    def _step(self, batch: Any) -> tuple[Tensor | float, int, bool]:
        """One update: loss times targets, targets, whether time is up; over all processes."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, count = self._backward(self.world.share(batch))
        late = time.monotonic() - self.started + self.progress.seconds > self.run.max_seconds
        if self.world.size > 1:
            summed, total, lates = self.world.total([float(loss), count, late], self.device)
            self.world.average(self.parameters, count, max(1.0, total))
            loss, count, late = summed, int(total), lates > 0
        if self.options.clip:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.options.clip)
            loss = loss + 0.0 * norm.detach()  # not finite where a gradient is not
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * min(1.0, (self.progress.steps + 1) / max(1, self.options.warmup))
        self.optimizer.step()
        if self.mean is not None:
            self._average()
        return loss, count, late

    def _backward(self, batch: Any) -> tuple[Tensor | float, int]:
        if hasattr(batch, "__len__") and not len(batch):  # more processes than rows
            return 0.0, 0
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss, count = self.learner.loss(batch)
        if count and loss.requires_grad:
            loss.backward()
        return loss.detach() * count, count

    def _check(self, losses: Tensor) -> None:
        if not bool(losses.isfinite()):
            p = self.progress
            raise FailedPrecondition(f"the loss is not finite in epoch {p.epoch}, step {p.steps}: nothing is learnt")

    # weights

    def _average(self) -> None:
        assert self.mean is not None
        assert self.options.ema is not None
        steps = self.progress.steps
        decay = min(self.options.ema, (1 + steps) / (10 + steps))  # else the first weights would stay for long
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self.mean[name].lerp_(tensor, 1 - decay)
            else:
                self.mean[name].copy_(tensor)

    def _kept(self) -> dict[str, Tensor]:
        return self.network.state_dict() if self.mean is None else self.mean

    def _validate(self) -> float:
        if not self.validated:
            return math.nan
        now = detached(self.network.state_dict().items()) if self.mean is not None else None
        self.network.load_state_dict(self._kept())
        self.network.eval()
        reached = 0.0
        if self.world.rank == 0:  # one process decides for all
            with torch.no_grad():
                reached = self.learner.validate()
        reached = self.world.total([reached], self.device)[0]
        if now is not None:
            self.network.load_state_dict(now)
        return reached

    def end(self) -> Learnt:
        p = self.progress
        self.network.load_state_dict(self.best if self.best is not None else self._kept())
        self.network.eval()
        seconds = p.seconds + time.monotonic() - self.started
        return Learnt(p.best_epoch, p.best, p.samples, seconds, tuple(p.curve), p.cut_short)

    # checkpoints

    def _save(self) -> None:
        if self.run.checkpoint is None:
            return
        tensors = {f"weights.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for at, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{at}.{name}": value for name, value in state.items()}
        tensors |= {f"mean.{name}": tensor for name, tensor in (self.mean or {}).items()}
        tensors |= {f"best.{name}": tensor for name, tensor in (self.best or {}).items()}
        scalars = asdict(self.progress)
        scalars["seconds"] += time.monotonic() - self.started
        checkpoints.write(self.run.checkpoint, self.settings, scalars, tensors)

    def resume(self) -> None:
        """Take up the checkpoint, if there is one."""
        found = checkpoints.read(self.run.checkpoint, self.settings) if self.run.checkpoint else None
        if found is None:
            return
        scalars, tensors = found
        scalars["curve"] = [tuple(point) for point in scalars["curve"]]
        self.progress = _Progress(**scalars)
        parts = {part: _under(part, tensors, self.device) for part in ("weights", "optimizer", "mean", "best")}
        self.network.load_state_dict(parts["weights"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            at, key = name.split(".")
            state.setdefault(int(at), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.mean = parts["mean"] if self.mean is not None else None
        self.best = parts["best"] or None


def _optimizer(parameters: Sequence[nn.Parameter], options: Options) -> torch.optim.Optimizer:
    """AdamW; biases and norms do not decay."""
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=options.learning_rate, fused=True)


def _under(part: str, tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name[len(part) + 1 :]: t.to(device) for name, t in tensors.items() if name.startswith(f"{part}.")}


def _number(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
