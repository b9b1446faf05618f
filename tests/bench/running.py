"""Runs benchmarks one after the other: what `python -m tests.bench` and with it `finestream bench` do."""

import argparse
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from shared.cli.screen import Screen
from tests.bench import report
from tests.bench.figure import Figure

Benchmark = Callable[[], Sequence[Figure]]

ALL: Final = "all"
WRONG_NAME: Final = 2


def _lazily(name: str) -> Benchmark:
    """The `figures` of tests/bench/<name>.py, imported when it is run: one that is not asked for costs nothing."""

    def figures() -> Sequence[Figure]:
        found: Sequence[Figure] = import_module(f"tests.bench.{name}").figures()
        return found

    return figures


# name -> what it measures
SHIPPED: Final[Mapping[str, str]] = {
    "intake": "events/s of one process that consumes, against a stock Faust agent",
    "graph": "events/s that graph_updater decodes, joins and writes, against a stock Faust agent that drops them",
    "flat": "CPU an event of graph_updater's joining and writing, with 100 times the users, items and edges",
    "freshness": "event to visible ranking under 500 events/s, the whole system (minutes)",
    "rank": "rankings/s, latency and overload of one ranking process, against a bare gRPC server",
    "refresh": "p99 of rankings while 1,000 items a second change, and while a bundle is swapped, against rankings alone",
    "paid": "reviews/s and CPU a review on the way to a language model that takes a second, against the goals",
    "backlog": "events/s of the trainer's reading of the archive, against a bare Kafka consumer",
    "state_size": "bytes of a user's state, against 32 KiB",
    "topk": "the exact top 100 of a million items, against torch.matmul with topk and FAISS IndexFlatIP",
    "softmax_loss": "the loss over a whole catalogue, against all logits at once",
    "train_speed": "SASRec training samples/s, against RecBole (minutes; installs RecBole the first time)",
}


def main(
    arguments: Sequence[str], shipped: Mapping[str, str] = SHIPPED, of: Callable[[str], Benchmark] = _lazily
) -> int:
    """The exit code: 0; 1 where a benchmark failed; 2 for a name that there is none of."""
    parser = argparse.ArgumentParser(prog="finestream bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(shipped)}, or {ALL}; none: list them")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    given = parser.parse_args(arguments)
    if not given.names:
        print("\n".join(f"{name:14}{what}" for name, what in shipped.items()))
        return 0
    if unknown := [name for name in given.names if name not in (*shipped, ALL)]:
        print(f"finestream: there is no benchmark {unknown[0]!r}; there are {', '.join(shipped)}", file=sys.stderr)
        return WRONG_NAME
    names = list(shipped) if ALL in given.names else list(dict.fromkeys(given.names))
    return run({name: of(name) for name in names}, given.json)


def run(benchmarks: Mapping[str, Benchmark], json: Path | None) -> int:
    """All of them, whichever fail; what there is of figures is written after each."""
    screen = Screen(Console(stderr=True))
    figures: list[Figure] = []
    failed: list[str] = []
    for name, benchmark in benchmarks.items():
        screen.heading(name)
        try:
            figures += benchmark()
        except Exception:  # noqa: BLE001  # whatever it is, the others run
            traceback.print_exc()
            failed.append(name)
        if json is not None:
            _write(json, figures)
    report.show(figures, Console())
    if failed:
        print(f"finestream: not measured, see above: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _write(path: Path, figures: Sequence[Figure]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
