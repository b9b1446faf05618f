"""`finestream bench`: figures against named baselines. They are measured by tests/bench, in a process of its own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from shared.cli.running import fail

ROOT: Final = Path(__file__).parents[2]
BENCHMARKS: Final = Path("tests/bench")  # below ROOT

Names = Annotated[list[str] | None, typer.Argument(help="benchmarks, or all; none: list them")]
Json = Annotated[Path | None, typer.Option(dir_okay=False, help="write the figures to this file, too")]


def bench(names: Names = None, json: Json = None) -> None:
    """Measure this system against named baselines, on this machine. Without names: list the benchmarks.

    Exit code 0 also where a goal is not reached; 1 where a benchmark failed. FINESTREAM_BENCH_DATA names a folder of
    published data sets.
    """
    if not (ROOT / BENCHMARKS).is_dir():
        fail("benchmarks come with the repository and are not installed: run this in a checkout, or make bench", 2)
    command = [sys.executable, "-m", ".".join(BENCHMARKS.parts), *(names or [])]
    if json is not None:
        command += ["--json", str(json.resolve())]  # the child works in another folder
    raise typer.Exit(_run(command))


def _run(command: Sequence[str]) -> int:
    """The child's exit code. Ctrl-C reaches the child as well; it is given the time to stop its broker."""
    with subprocess.Popen(command, cwd=ROOT) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:
            return child.wait()
