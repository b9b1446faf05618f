"""A made-up data set on a disk, and configs for it: small enough that a fit takes no time."""

import random
import threading
from pathlib import Path
from typing import Any

from shared.experiments import job
from shared.experiments.experiment import Job, Options, Watcher

START, DAY = 1_500_000_000, 86_400
DATA = 'name = "made-up"\ninteractions = "log.txt"\ntext = false\n'
TWO_MODELS = '[[model]]\nkind = "popularity"\n[[model]]\nkind = "item_knn"\n'


def write_log(folder: Path, users: int = 40, items: int = 24, each: int = 8, seed: int = 1) -> Path:
    """Lines `user item time`: users of two tastes, items of a taste not equally often; 5 users come late."""
    rng = random.Random(seed)
    lines = []
    for user in range(users):
        own = [item for item in range(items) if item % 2 == user % 2]
        met = sorted(own, key=lambda item: rng.random() * (1 + item))[:each]
        late = user >= users - 5
        for item in met:
            day = rng.randrange(92, 100) if late else rng.randrange(92)
            lines.append((day, f"u{user} i{item} {START + day * DAY}"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").write_text("\n".join(line for _, line in sorted(lines)) + "\n")
    return folder


def write_config(path: Path, models: str = TWO_MODELS, data: str = DATA, head: str = 'title = "Made up"\n') -> Path:
    path.write_text(f"{head}[data]\n{data}{models}")
    return path


def run_here(job_: Job, options: Options, watcher: Watcher, told: threading.Lock, running: set[Any]) -> str:
    """In the place of `experiment._run`: in this process, since a process of its own takes seconds to start."""
    try:
        job.do(job.Asked.of(job_.experiment, job_.row, job_.seed, options.device, job_.folder), lambda what: None)
    except Exception as error:  # noqa: BLE001  # as the process does
        with told:
            watcher.failed(job_, str(error))
        return str(error)
    with told:
        watcher.done(job_, 0.0)
    return ""
