"""Finished fits, kept: an evaluation that was killed goes on where it was, and a rerun costs seconds.

One folder a fit, named by what decides its result: the data's bytes, the protocol, the model's config, the seed, the
device. In it are result.json, the figures of every target as .npy, and which source files made it: where one of them
has changed since, the fit counts as not done.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.experiments.config import Experiment, Row
from shared.experiments.extracted import extracted
from shared.experiments.tasks import DataSpec

RESULT: Final = "result.json"
TARGETS: Final = "targets.npy"
ROOT: Final = Path(__file__).parents[2]
# What makes a result. What only reports it (plots, tables, the command line) may change freely.
SOURCES: Final = (
    "shared.models.",
    "shared.graph.",
    "shared.experiments.",
    "shared.local.reviews",
    "shared.events",
    "shared.similar",
)
FILES: Final = ("reviews", "items", "interactions", "sequences", "attributes", "names")  # of a DataSpec


@dataclass(frozen=True)
class Outcome:
    """What one fit gave. `targets` (T, F): each asked target's figures, in the order of `metrics`."""

    targets: NDArray[np.float32]
    metrics: Sequence[str]
    costs: Mapping[str, float]  # of the fit as a whole: seconds, memory, coverage, ...
    measured: str  # date
    machine: str
    cut_short: bool
    chosen: Mapping[str, Any] = field(default_factory=dict)  # on validation


def key_of(experiment: Experiment, row: Row, seed: int, device: str) -> str:
    """The name of the folder."""
    told = {
        "data": _data(experiment.spec_of(row)),
        "kind": row.kind,
        "config": dict(sorted(row.values.items())),
        "seed": seed,
        "device": device,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:24]


def kept(folder: Path) -> Outcome | None:
    """The outcome in a folder; None where there is none, or where it was made by other code than there is now."""
    try:
        stored = json.loads((folder / RESULT).read_text())
        targets = np.load(folder / TARGETS, allow_pickle=False)
    except (OSError, ValueError):
        return None
    if any(_digest(ROOT / path) != digest for path, digest in stored["sources"].items()):
        return None
    told = {name: stored[name] for name in ("metrics", "costs", "measured", "machine", "cut_short", "chosen")}
    return Outcome(targets, **told)


def keep(folder: Path, outcome: Outcome) -> None:
    """Write the outcome of this process; a kill leaves all of it or nothing."""
    making = folder.with_name(folder.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    np.save(making / TARGETS, outcome.targets, allow_pickle=False)
    told = {name: value for name, value in asdict(outcome).items() if name != "targets"}
    (making / RESULT).write_text(json.dumps({**told, "sources": sources()}, indent=1, default=str))
    shutil.rmtree(folder, ignore_errors=True)
    making.rename(folder)


def forget_digests() -> None:
    """Look at files anew: they may have changed."""
    _digest.cache_clear()


def sources() -> dict[str, str]:
    """The source files that this process has loaded and that results depend on, with the digest of each."""
    # A copy of the list: what is imported on use may still be on its way in another thread.
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(SOURCES)]
    paths = [Path(module.__file__) for module in modules if module.__file__]
    return {str(path.relative_to(ROOT)): _digest(path) for path in sorted(paths)}


def _data(spec: DataSpec) -> dict[str, Any]:
    """What of a data set decides results: contents, not where they lie. Who extracted is in the extraction's name."""
    told = {name: value for name, value in asdict(spec).items() if name not in ("name", "cache", "extractor", *FILES)}
    files = {name: _digest(path) for name in FILES if (path := getattr(spec, name)) is not None}
    if spec.reviews is not None and spec.text:
        told["extracted"] = extracted(spec.reviews, spec.items, spec.space, spec.cache, spec.extractor).name
    if spec.archive is not None:
        from shared import archive  # needs a file system library that files do not

        told["archive"] = str(archive.offsets(spec.archive))
    return {**told, **files}


@cache
def _digest(path: Path) -> str:
    """Of a file's bytes; "" where there is none. Raises OSError for what is there and cannot be read."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
