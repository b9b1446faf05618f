"""A small learner for tests of the training loop; as a program it is one process of a fit that is killed or shared.

python -m tests.shared.models.learners FOLDER [--kill-in EPOCH] [--dropout P]: fits and writes FOLDER/weights.safetensors.
"""

import argparse
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shared.models.batches import Batch, SequenceBatches
from shared.models.dataset import Case, cases, read_log
from shared.models.fitting import Run
from shared.models.softmax import softmax_loss
from shared.models.split import Split, histories
from shared.models.training import Options, learn, seed, validator
from tests.shared.models.worlds import DAY, SCHEMA, SPACE, START, tastes

OPTIONS = Options(epochs=5, learning_rate=0.01, weight_decay=0.01, warmup=5, ema=0.9)
LONGEST = 6


class Network(nn.Module):
    def __init__(self, items: int, dropout: float, d: int = 8) -> None:
        super().__init__()
        self.items = nn.Embedding(items, d)
        self.drop = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(d)
        self.gru = nn.GRU(d, d, batch_first=True)

    def forward(self, history: Tensor) -> Tensor:
        states: Tensor = self.norm(self.gru(self.drop(self.items(history)))[0])
        return states


class Learner:
    def __init__(self, split: Split, dropout: float = 0.3, device: str = "cpu") -> None:
        self.split, self.device = split, device
        self.network = Network(len(split.items), dropout).to(device)
        self.data = SequenceBatches(split.sequences, LONGEST, 32, device)
        self.validate = validator(split, self.score)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        return self.data.epoch(rng)

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        states = self.network(batch.history)[batch.asked[:, 0], batch.asked[:, 1]]
        return softmax_loss(states, self.network.items.weight, None, batch.targets), len(batch)

    def score(self, found: Sequence[Case]) -> Tensor:
        history, real = histories(found, self.split.row_of, LONGEST, self.device)
        rows = torch.arange(len(history), device=self.device)
        states: Tensor = self.network(history)[rows, (real.sum(1) - 1).clamp(min=0)]
        return states @ self.network.items.weight.T


def world(users: int = 70) -> Split:
    log = read_log(tastes(users=users, items=40), SPACE)
    return Split(log, SPACE, SCHEMA, held_out=cases(log, START + 270 * DAY, START + 300 * DAY)[:60])


def fit(
    split: Split, run: Run, options: Options = OPTIONS, dropout: float = 0.3, **changed: Any
) -> tuple[Learner, Any]:
    seed(run.seed)
    learner = Learner(split, dropout, run.device)
    for name, value in changed.items():
        setattr(learner, name, value)
    return learner, learn(learner, options, run, settings=dropout)


def killed(learner: Learner, epoch: int) -> None:
    """Kill this process in the middle of an epoch."""
    batches, loss = learner.batches, learner.loss
    at = {"epoch": 0, "step": 0}

    def counted(rng: np.random.Generator) -> Iterator[Batch]:
        at["epoch"], at["step"] = at["epoch"] + 1, 0
        return batches(rng)

    def deadly(batch: Batch) -> tuple[Tensor, int]:
        at["step"] += 1
        if (at["epoch"], at["step"]) == (epoch, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(batch)

    learner.batches, learner.loss = counted, deadly  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-in", type=int, default=0)
    parser.add_argument("--dropout", type=float, default=0.3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    run = Run(checkpoint=given.folder / "checkpoint")
    seed(run.seed + int(os.environ.get("RANK", "0")))  # the first process's weights count
    learner = Learner(world(), given.dropout)
    killed(learner, given.kill_in)
    learnt = learn(learner, OPTIONS, run, settings=given.dropout)
    print(learnt.samples, flush=True)
    save_file(learner.network.state_dict(), given.folder / f"weights{os.environ.get('RANK', '')}.safetensors")


if __name__ == "__main__":
    main()
