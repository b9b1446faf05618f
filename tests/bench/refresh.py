"""What changes cost those who ask meanwhile: 1,000 changed items a second, and a bundle that is swapped.

The service as in ranked.py and the load as in rank.py, at a quarter of saturation. Changes are descriptions written to
Kafka by a process of its own (changing.py); graph_updater joins and announces them, ranking fetches, encodes and
writes the rows. Rounds without and with changes, and with a swap of the whole catalogue, take turns; of each kind the
median of its rounds. A bare server (echo.py) beside ranking is asked at the same rate, without and with changes: what
changes cost it is what they cost the load and the machine, not ranking.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import uvloop

from tests.bench import echo
from tests.bench.cores import busy_seconds, cpu_seconds, pinned, split
from tests.bench.data import ROOT
from tests.bench.figure import Figure, figure
from tests.bench.http2 import OK
from tests.bench.load import Answers, Target, saturating, steady
from tests.bench.rank import METHOD, OF, OPEN, REQUESTS, echoing
from tests.bench.ranked import Ranked, ranking
from tests.running import Running

RATE: Final = 1_000.0  # changed items a second
SHARE: Final = 0.25  # of saturation
ROUNDS: Final = 4
SECONDS: Final = 12.0  # of a round; a swap is over before
BARE_SECONDS: Final = 6.0
SETTLING_SECONDS: Final = 1.5  # of changes, before a round with them begins
SETTLED_SECONDS: Final = 60.0  # until the table has caught up, at most
GOAL: Final = 1.2  # p99 with changes over without
ALONE, CHANGES, SWAP = "alone", "changes", "swap"
REFRESHED: Final = "finestream_ranking_refreshed_items_total"
PENDING: Final = "finestream_ranking_pending_items"
SWAPS: Final = "finestream_ranking_bundle_swaps_total"
VISIBLE: Final = "finestream_event_to_visible_seconds"  # of the kind item


@dataclass(frozen=True)
class Round:
    answers: Answers
    cpu_share: float  # of a core, ranking's
    others: float  # how busy the other cores were, on which everything else is
    changed: float  # items a second that came into the table
    seconds_to_visible: float  # mean, of the items of the round; nan without
    pending: float  # items, at the end


def figures() -> list[Figure]:
    server, others = split()
    with ranking(server, others) as ranked, pinned(others):
        target = Target(ranked.service.grpc_address, METHOD, REQUESTS)
        peak = uvloop.run(saturating(target, OPEN, SECONDS)).rate
        rounds: dict[str, list[Round]] = {ALONE: [], CHANGES: [], SWAP: []}
        bare: dict[str, list[Answers]] = {ALONE: [], CHANGES: []}
        with echoing(server, b"") as (address, _):
            echoed = Target(address, echo.METHOD, target.requests)
            for seed in range(ROUNDS):
                rounds[ALONE].append(_round(ranked.service, target, SHARE * peak, seed))
                bare[ALONE].append(uvloop.run(steady(echoed, SHARE * peak, BARE_SECONDS, seed)))
                with changing(ranked.bootstrap):
                    time.sleep(SETTLING_SECONDS)
                    rounds[CHANGES].append(_round(ranked.service, target, SHARE * peak, seed))
                    bare[CHANGES].append(uvloop.run(steady(echoed, SHARE * peak, BARE_SECONDS, seed)))
                _settled(ranked.service)
                rounds[SWAP].append(_swapped(ranked, target, SHARE * peak, seed))
    return [_changes(rounds, bare, peak), _swaps(rounds, peak)]


@contextmanager
def changing(bootstrap: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.bench.changing", bootstrap, str(RATE)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "what changes the items has not begun"
            yield
            assert process.poll() is None, "what changes the items has ended"
        finally:
            process.kill()


def _round(service: Running, target: Target, rate: float, seed: int) -> Round:
    others = os.sched_getaffinity(0)  # the load is where all others are
    before, cpu, busy = _counts(service), cpu_seconds(service.process.pid), busy_seconds(others)
    began = time.perf_counter()
    answers = uvloop.run(steady(target, rate, SECONDS, seed))
    seconds, used = time.perf_counter() - began, cpu_seconds(service.process.pid) - cpu
    elsewhere = (busy_seconds(others) - busy) / len(others)
    refreshed, visible, waited = (now - then for now, then in zip(_counts(service), before, strict=True))
    mean = waited / visible if visible else float("nan")
    return Round(answers, used / seconds, elsewhere / seconds, refreshed / seconds, mean, service.metric(PENDING))


def _counts(service: Running) -> tuple[float, ...]:
    of_items = {"kind": "item"}
    count, total = (service.metric(f"{VISIBLE}_{what}", **of_items) for what in ("count", "sum"))
    return service.metric(REFRESHED), count, total


def _settled(service: Running) -> None:
    deadline = time.monotonic() + SETTLED_SECONDS
    while service.metric(PENDING):
        assert time.monotonic() < deadline, "the table does not catch up"
        time.sleep(0.1)


def _swapped(ranked: Ranked, target: Target, rate: float, seed: int) -> Round:
    """A round at whose beginning a bundle is published; it is in service before the round ends."""
    before = ranked.service.metric(SWAPS)
    ranked.publish()
    found = _round(ranked.service, target, rate, seed)
    assert ranked.service.metric(SWAPS) == before + 1, "the bundle was not in service before the round ended"
    return found


def _changes(rounds: dict[str, list[Round]], bare: dict[str, list[Answers]], peak: float) -> Figure:
    alone, changes = rounds[ALONE], rounds[CHANGES]
    ours, baseline = _median(changes, 0.99), _median(alone, 0.99)
    parts = {
        "p99 with changes over without": ours / baseline,
        **{f"p50, {name}, ms": _median(of, 0.5) for name, of in ((ALONE, alone), (CHANGES, changes))},
        "calls not answered": float(sum(_failed(one) for one in (*alone, *changes))),
        "items/s into the table": statistics.median(one.changed for one in changes),
        "s to visible, mean": statistics.median(one.seconds_to_visible for one in changes),
        "pending at the end of a round, most": max(one.pending for one in changes),
        "of a core, alone": statistics.median(one.cpu_share for one in alone),
        "of a core, changes": statistics.median(one.cpu_share for one in changes),
        "of the other cores, alone": statistics.median(one.others for one in alone),
        "of the other cores, changes": statistics.median(one.others for one in changes),
        **{f"p99 of a bare server, {name}, ms": _middle(of, 0.99) for name, of in bare.items()},
    }
    what = f"ms to the answer, p99, while {RATE:,.0f} items/s change, {_at(peak)}; baseline: without changes"
    return figure("refresh", what, ours, baseline, "ms", goal=1 / GOAL, less_is_better=True, parts=parts)


def _swaps(rounds: dict[str, list[Round]], peak: float) -> Figure:
    alone, swaps = rounds[ALONE], rounds[SWAP]
    ours, baseline = _median(swaps, 1.0), _median(alone, 1.0)
    parts = {
        "slowest with a swap over without": ours / baseline,
        **{f"p99, {name}, ms": _median(of, 0.99) for name, of in ((ALONE, alone), (SWAP, swaps))},
        "calls not answered": float(sum(_failed(one) for one in swaps)),
        "of a core, swap": statistics.median(one.cpu_share for one in swaps),
    }
    what = f"ms to the slowest answer while a bundle is swapped, {_at(peak)}; baseline: without a swap"
    return figure("refresh swap", what, ours, baseline, "ms", goal=1 / GOAL, less_is_better=True, parts=parts)


def _at(peak: float) -> str:
    return f"at {SHARE:.0%} of saturation ({SHARE * peak:,.0f} rankings/s), of {OF}"


def _median(rounds: list[Round], quantile: float) -> float:
    return _middle([one.answers for one in rounds], quantile)


def _middle(answers: list[Answers], quantile: float) -> float:
    return statistics.median(one.milliseconds(quantile) for one in answers)


def _failed(one: Round) -> int:
    return one.answers.sent - len(one.answers.took.get(OK, ()))
