"""RecBole's SASRec, an epoch at a time. Runs in an environment of its own (see train_speed), so it imports nothing of ours.

python recbole_sasrec.py SETTINGS.json: builds data and model, prints {"ready": samples an epoch}, then for every line
on stdin trains one epoch and prints {"seconds", "samples", "loss"}. RecBole's own trainer does the epoch, data loader
and augmented prefixes included; nothing is validated.
"""

import json
import sys
import time
from pathlib import Path

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(given["threads"])
    replies, sys.stdout = sys.stdout, sys.stderr  # RecBole may print
    sys.argv = sys.argv[:1]  # RecBole reads arguments too
    config = Config(model="SASRec", dataset=given["dataset"], config_dict=given["config"])
    init_seed(config["seed"], reproducibility=True)
    train, _, _ = data_preparation(config, create_dataset(config))
    model = SASRec(config, train.dataset).to(config["device"])
    trainer = Trainer(config, model)
    samples = len(train.dataset)

    def reply(**values: float) -> None:
        print(json.dumps(values), file=replies, flush=True)

    reply(ready=samples, steps=len(train))
    for epoch, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        loss = trainer._train_epoch(train, epoch)
        reply(seconds=time.perf_counter() - started, samples=samples, loss=loss / len(train))


if __name__ == "__main__":
    main()
