"""How fast SASRec is trained: ours against RecBole's, at equal hyper-parameters, data, machine, threads and run.

A sample is one (prefix, target) pair. Both learn from the same pairs: Musical Instruments without the last two events
of each user, which RecBole keeps for validation and test; events are numbered, so no two are of one time. Both take
about as many targets a step. Seconds are those of an epoch's training, data loader included, validation not. Epochs
of both alternate, and figures are medians over the rounds. RecBole has a row of 50 columns for every pair; we answer
all pairs of a user in one row, as wide as the longest user of its batch. "alone" is ours with one pair a row: what
is left of the ratio then does not come from answering many at once.
"""

import gzip
import json
import math
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from shared.models import sasrec
from shared.models.batches import SequenceBatches
from shared.models.dataset import read_log
from shared.models.features import Schema
from shared.models.fitting import Run
from shared.models.sequence_model import SequenceLearner, Served
from shared.models.split import Split
from shared.models.training import Options, Training, seed
from tests.bench.data import ROOT, instruments
from tests.bench.figure import Figure, figure
from tests.shared.models.worlds import interaction

ENVIRONMENT: Final = ROOT / ".run/bench-recbole"
# RecBole 1.2.1 does not say which versions it works with: later numpy and pandas break it, and ray needs pkg_resources.
PINS: Final = ("recbole==1.2.1", "numpy==1.26.4", "pandas==2.1.4", "scipy==1.11.4", "ray==2.6.3", "setuptools==80.10.2")
GOAL: Final = 3.0
WHAT: Final = (
    f"SASRec training samples/s on Musical Instruments, a sample is one (prefix, target) pair, against {PINS[0]} on the "
    f"same torch {torch.__version__}"
)
WARM: Final = 2  # rounds that are not counted

Pairs = dict[str, list[str]]  # user -> items, oldest first
Epoch = Callable[[], tuple[float, int, float]]  # -> seconds, samples, loss of a target


def figures(rounds: int = 9, threads: int = 1, targets: int = 2048) -> list[Figure]:
    """`targets` a step, about; 2048 is RecBole's own."""
    torch.set_num_threads(threads)
    log = read()
    with Recbole(log, threads, targets) as baseline:
        learners = {
            "baseline": baseline.epoch,
            "ours": ours(log, targets, alone=False),
            "alone": ours(log, targets, alone=True),
        }
        return [measured(learners, rounds, {"targets a step": targets, "threads": threads})]


def read() -> Pairs:
    """Of one time, events keep the order of the file."""
    events: list[tuple[int, int, str, str]] = []
    with gzip.open(instruments(), "rt") as lines:
        for at, line in enumerate(lines):
            review = json.loads(line)
            events.append((review["unixReviewTime"], at, review["reviewerID"], review["asin"]))
    found: Pairs = defaultdict(list)
    for _, _, user, item in sorted(events):
        found[user].append(item)
    return dict(found)


def measured(learners: dict[str, Epoch], rounds: int, settings: Mapping[str, float]) -> Figure:
    speeds: dict[str, list[float]] = {name: [] for name in learners}
    losses: dict[str, float] = {}
    samples: set[int] = set()
    for number in range(WARM + rounds):
        for name, epoch in learners.items():
            seconds, count, losses[name] = epoch()
            samples.add(count)
            if number >= WARM:
                speeds[name].append(count / seconds)
    assert len(samples) == 1, f"not the same pairs: {samples}"
    middle = {name: statistics.median(of) for name, of in speeds.items()}
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["baseline"], strict=True)]
    of_many_at_once = math.log(middle["ours"] / middle["alone"]) / math.log(middle["ours"] / middle["baseline"])
    parts = {
        "ours with one pair a row, samples/s": middle["alone"],
        "share of the ratio's logarithm that is from answering all positions in one pass": of_many_at_once,
        "lowest ratio of a round": min(ratios),
        "median ratio of the rounds": statistics.median(ratios),
        "highest ratio of a round": max(ratios),
        "samples an epoch": samples.pop(),
        "rounds": rounds,
        **settings,
        **{f"loss after all epochs, {name}": loss for name, loss in losses.items()},
    }
    return figure("train_speed", WHAT, middle["ours"], middle["baseline"], "samples/s", goal=GOAL, parts=parts)


# ours


def ours(log: Pairs, targets: int, alone: bool) -> Epoch:
    kept = {user: items[:-2] for user, items in log.items()}
    events = [interaction(user, item, 1.0 + at) for user, items in kept.items() for at, item in enumerate(items)]
    split = Split(read_log(events, ""), "", Schema(1, 1, ("other",)), clock=False)
    pairs = len(split.sequences.asked_for)
    rows = targets if alone else max(1, round(targets * len(split.sequences) / pairs))
    config = sasrec.Config(d=64, layers=2, heads=2, dropout=0.5, longest=50, batch=rows, bias=False)
    seed(1)
    ids = [node.item_id for node in split.items]
    model = Served("sasrec", "", ids, config, sasrec.network(config, len(ids)))
    learner = SequenceLearner(model, split)
    if alone:
        data = SequenceBatches(learner.sequences, config.longest, rows, alone=True)

        def batches(rng: np.random.Generator) -> Iterator[Any]:
            return data.epoch(rng)

        learner.batches = batches  # type: ignore[method-assign]
    training = Training(learner, Options(learning_rate=1e-3), Run(chosen={"epochs": 1 << 30}), None)

    def epoch() -> tuple[float, int, float]:
        before, started = training.progress.samples, time.perf_counter()
        training.epoch()
        seconds = time.perf_counter() - started
        return seconds, training.progress.samples - before, training.progress.curve[-1][1]

    return epoch


# RecBole


class Recbole:
    """RecBole's SASRec in a process of its own, in an environment of its own."""

    def __init__(self, log: Pairs, threads: int, targets: int) -> None:
        installed()
        data = ENVIRONMENT / "data/music"
        data.mkdir(parents=True, exist_ok=True)
        lines = [f"{user}\t{item}\t{1 + at}" for user, items in log.items() for at, item in enumerate(items)]
        header = "user_id:token\titem_id:token\ttimestamp:float"
        (data / "music.inter").write_text("\n".join([header, *lines]) + "\n")
        settings = ENVIRONMENT / "settings.json"
        settings.write_text(json.dumps({"dataset": "music", "threads": threads, "config": _config(data, targets)}))
        script = Path(__file__).with_name("recbole_sasrec.py")
        with (ENVIRONMENT / "recbole.log").open("w") as errors:
            self.process = subprocess.Popen(
                [ENVIRONMENT / "bin/python", script, settings],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ENVIRONMENT,
            )  # fmt: skip
        self._reply()

    def __enter__(self) -> "Recbole":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def epoch(self) -> tuple[float, int, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        got = self._reply()
        return got["seconds"], int(got["samples"]), got["loss"]

    def _reply(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"RecBole ended: see {ENVIRONMENT / 'recbole.log'}")
        found: dict[str, float] = json.loads(line)
        return found


def installed() -> None:
    """RecBole in an environment with the torch that we use."""
    done = ENVIRONMENT / "installed.json"
    wanted = [*PINS, f"torch=={torch.__version__}"]
    if done.exists() and json.loads(done.read_text()) == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
    subprocess.run([ENVIRONMENT / "bin/pip", "install", "-q", *wanted], check=True)
    done.write_text(json.dumps(wanted))


def _config(data: Path, targets: int) -> dict[str, Any]:
    return {
        "data_path": str(data.parent),
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": 50,
        "hidden_size": 64,
        "inner_size": 64,  # as ours; RecBole's own is 256
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dropout_prob": 0.5,
        "attn_dropout_prob": 0.5,
        "hidden_act": "relu",
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "train_batch_size": targets,
        "learning_rate": 1e-3,
        "seed": 1,
        "use_gpu": False,
        "show_progress": False,
        "checkpoint_dir": str(data.parent / "saved"),
    }
