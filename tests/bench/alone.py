"""Contenders of a benchmark, each in a process of its own: they share no GIL, no heap and no warm cache.

python -m tests.bench.alone MODULE:FUNCTION JSON-ARGUMENTS prints what the function gives, as JSON.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

from tests.bench.data import ROOT

Numbers = dict[str, float]
Contender = tuple[Any, ...]  # a function of a module, and its arguments, which JSON can carry

SECONDS: Final = 300.0  # for one run; one that takes longer hangs
RATE: Final = "events/s"


def best(contenders: Mapping[str, Contender], rounds: int = 2) -> dict[str, Numbers]:
    """Each contender's fastest run. They take turns, so that a disturbance meets more than one of them."""
    found: dict[str, list[Numbers]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (function, *arguments) in contenders.items():
            found[name].append(alone(function, *arguments))
    return {name: max(runs, key=lambda run: run[RATE]) for name, runs in found.items()}


def alone(function: Callable[..., Numbers], *arguments: Any) -> Numbers:
    """What the function measures in a new process. Raises subprocess.SubprocessError when that fails."""
    place = f"{function.__module__}:{function.__name__}"
    command = [sys.executable, "-m", "tests.bench.alone", place, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=SECONDS)
    found: Numbers = json.loads(done.stdout.splitlines()[-1])
    return found


def main(place: str, arguments: str) -> None:
    module, name = place.split(":")
    print(json.dumps(getattr(import_module(module), name)(*json.loads(arguments))))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)  # told by the one who started us
