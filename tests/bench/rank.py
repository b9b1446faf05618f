"""How many rankings a second one ranking process gives on one core, how soon, and what becomes of more than it can do.

The service as in ranked.py, k of 10, explained; the load (load.py) is a process of its own on the other cores, where
graph_updater and the broker are, too. Saturation is what 128 open calls get, in turn with a bare grpc.aio server
(echo.py) on the same core that answers the same number of bytes: of each the median of three rounds. Then calls at
random moments, at shares of saturation and beyond it, with a second's deadline each. The peak is the best rate of good
answers to these: calls that come one by one cost more than the bursts in which 128 open calls follow a batch of answers.
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop

from shared.pb.finestream.v1.ranking_pb2 import DESCRIPTOR, RankRequest
from tests.bench import echo
from tests.bench.cores import cpu_seconds, pinned, split
from tests.bench.data import ROOT
from tests.bench.figure import Figure, figure
from tests.bench.http2 import OVERLOADED
from tests.bench.load import Answers, Target, saturating, steady
from tests.bench.ranked import ITEMS, USERS, ranking, user_name
from tests.running import children

METHOD: Final = f"/{DESCRIPTOR.services_by_name['RankingService'].full_name}/Rank"
REQUESTS: Final = [RankRequest(user_id=user_name(n)).SerializeToString() for n in range(USERS)]
PREFIX_BYTES: Final = 5  # of a gRPC message
OPEN: Final = 128
ROUNDS: Final = 3
SECONDS: Final = 4.0  # of a round, and of each rate
SHARES: Final = (0.25, 0.5, 0.75, 1.0)
OVERLOADS: Final = (1.5, 3.0)
QUANTILES: Final = (0.5, 0.95, 0.99, 0.999)
RATIO_GOAL: Final = 0.5
P99_GOAL: Final = 25.0  # ms, at half of saturation
REFUSED_GOAL: Final = 5.0  # ms
GOODPUT_GOAL: Final = 0.95  # of the peak: what differs less is noise
OF: Final = f"one ranking process on one core, {ITEMS:,} items, histories of 50, k of 10 with explanations"


@dataclass
class Runs:
    """Of one server at saturation."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # µs a request
    of_children: list[float] = field(default_factory=list)

    def add(self, answers: Answers, cpu: float, of_children: float) -> None:
        self.rates.append(answers.rate)
        self.cpu.append(1e6 * cpu / answers.sent)
        self.of_children.append(1e6 * of_children / answers.sent)


def figures() -> list[Figure]:
    server, others = split()
    with ranking(server, others) as ranked, pinned(others):
        service = ranked.service
        target = Target(service.grpc_address, METHOD, REQUESTS, "1S")
        answer = uvloop.run(saturating(target, OPEN, 1.0)).answer[PREFIX_BYTES:]
        ours, bare = Runs(), Runs()
        with echoing(server, answer) as (address, pid):
            echoed = Target(address, echo.METHOD, target.requests, target.timeout)
            for _ in range(ROUNDS):
                _round(bare, echoed, pid)
                _round(ours, target, service.process.pid)
        peak = statistics.median(ours.rates)
        levels = {share: uvloop.run(steady(target, share * peak, SECONDS)) for share in (*SHARES, *OVERLOADS)}
    return [_saturation(ours, bare, len(answer)), _latency(levels, peak), *_overload(levels, peak)]


@contextmanager
def echoing(server: set[int], answer: bytes) -> Iterator[tuple[str, int]]:
    """The bare server's address and process id."""
    with tempfile.NamedTemporaryFile(prefix="finestream-bench-") as file:
        Path(file.name).write_bytes(answer)
        command = [sys.executable, "-m", "tests.bench.echo", file.name]
        with pinned(server):
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        with process:
            try:
                assert process.stdout is not None
                yield f"127.0.0.1:{int(process.stdout.readline())}", process.pid
            finally:
                process.kill()


def _round(runs: Runs, target: Target, pid: int) -> None:
    before, of_children = cpu_seconds(pid), _of_children(pid)
    answers = uvloop.run(saturating(target, OPEN, SECONDS))
    assert not answers.neither, f"calls that were not answered: {answers.statuses()}"
    runs.add(answers, cpu_seconds(pid) - before, _of_children(pid) - of_children)


def _of_children(pid: int) -> float:
    return sum(map(cpu_seconds, children(pid)))


def _saturation(ours: Runs, bare: Runs, answer_bytes: int) -> Figure:
    cpu, bare_cpu = statistics.median(ours.cpu), statistics.median(bare.cpu)
    parts = {
        "CPU µs a request": cpu, "of these the door's": statistics.median(ours.of_children),
        "CPU µs a request, bare": bare_cpu, "ratio of CPU": bare_cpu / cpu,
        "bytes of an answer": float(answer_bytes),
    }  # fmt: skip
    what = f"rankings/s of {OF}, against a bare grpc.aio server that answers as many bytes on that core"
    rates = statistics.median(ours.rates), statistics.median(bare.rates)
    return figure("rank", what, *rates, "rankings/s", goal=RATIO_GOAL, parts=parts)


def _latency(levels: dict[float, Answers], peak: float) -> Figure:
    """All counted from when a request was due."""
    parts = {
        f"p{100 * quantile:g} at {share:.0%} of saturation, ms": levels[share].milliseconds(quantile)
        for share in SHARES for quantile in QUANTILES
    }  # fmt: skip
    parts |= {f"refused at {share:.0%}": float(_refused(levels[share])) for share in SHARES}
    what = f"ms to the answer at half of saturation ({peak / 2:,.0f} rankings/s), p99, of {OF}; baseline: the goal"
    ours = levels[0.5].milliseconds(0.99)
    return figure("rank p99", what, ours, P99_GOAL, "ms", goal=1.0, less_is_better=True, parts=parts)


def _overload(levels: dict[float, Answers], saturation: float) -> list[Figure]:
    """What is neither answered nor refused ended with its deadline, or was lost."""
    most = max(levels)
    answers, peak = levels[most], max(level.rate for level in levels.values())
    parts = {
        "sent": float(answers.sent), "refused": float(_refused(answers)), "neither": float(answers.neither),
        "p99 of the answered, ms": answers.milliseconds(0.99), "of saturation": answers.rate / saturation,
    }  # fmt: skip
    parts |= {f"good at {share:.0%} of saturation": level.rate for share, level in levels.items()}
    at = f"at {most:g} times saturation"
    refused = answers.milliseconds(0.99, OVERLOADED)
    what = f"good rankings/s {at}, of {OF}; baseline: the best rate of calls at random moments"
    return [
        figure("rank goodput", what, answers.rate, peak, "rankings/s", goal=GOODPUT_GOAL, parts=parts),
        figure(
            "rank refused", f"ms to RESOURCE_EXHAUSTED {at}, p99; baseline: the goal", refused, REFUSED_GOAL, "ms",
            goal=1.0, less_is_better=True,
        ),
    ]  # fmt: skip


def _refused(answers: Answers) -> int:
    return answers.statuses().get(OVERLOADED, 0)
