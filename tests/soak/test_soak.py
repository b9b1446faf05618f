"""The whole system under a steady stream for an hour: what each part holds in memory and has open stays flat.

`make soak` runs it; FINESTREAM_SOAK_SECONDS and _RATE (events/s) change it. Between two events lies a second of event
time, so that an hour holds more than a week. Twice a model is trained and swapped in. Users and items are few and
caches small, so that states are at their bounds and caches full when the measuring begins, after a quarter of the time;
what still grows then is a leak. The embedded broker keeps its log in memory: it is shown, not judged.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console
from rich.table import Table

import tests.chaos.story
from shared.local.layout import BROKER, SERVICES
from shared.local.ledger import Sent
from tests.chaos.breaking import check
from tests.chaos.story import story
from tests.e2e.conftest import System, running
from tests.parts import until
from tests.soak.meter import BYTES_MORE, FILES_MORE, MEGABYTE, Sample, floor, sample, trend

SECONDS: Final = float(os.environ.get("FINESTREAM_SOAK_SECONDS", "3600"))
RATE: Final = float(os.environ.get("FINESTREAM_SOAK_RATE", "200"))
USERS, ITEMS = 40, 40
WARM_SHARE: Final = 0.25
SAMPLES: Final = 240
TICK_SECONDS: Final = 0.1
ASK_SECONDS: Final = 0.05
SWAP_SECONDS: Final = 300.0
SMALL: Final = {
    "FINESTREAM_EXTRACTOR_CACHED_TEXTS": "200",
    "FINESTREAM_EXTRACTOR_CACHED_PHRASES": "200",
    "FINESTREAM_GRAPH_UPDATER_CACHE_MEGABYTES": "4",
    "FINESTREAM_TRAINER_MAX_SECONDS": "20",
}
Measured = dict[str, list[Sample]]

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 1800)]


@pytest.fixture
async def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[System]:
    monkeypatch.setattr(tests.chaos.story, "USERS", USERS)
    monkeypatch.setattr(tests.chaos.story, "ITEMS", ITEMS)
    async with running(tmp_path, **SMALL) as started:
        yield started


async def test_memory_and_open_files_stay_flat_under_a_steady_stream(system: System) -> None:
    told: list[Sent] = []
    measured: Measured = {name: [] for name in [BROKER, *(service.name for service in SERVICES)]}
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(stream(system, told, began))
        group.create_task(measure(system, measured, began))
        group.create_task(ask(system, began))
        group.create_task(retrain(system, began))
    grown = show(measured)
    await check(system, told)
    assert not grown


async def stream(system: System, told: list[Sent], began: float) -> None:
    """What is due at each tick, so that a slow one is made up for."""
    events = story(int(2 * SECONDS * RATE) + 1000, seed=11)
    while (elapsed := time.monotonic() - began) < SECONDS:
        due = list(islice(events, int(elapsed * RATE) - len(told)))
        await system.send(due)
        told += due
        await asyncio.sleep(TICK_SECONDS)
    print(f"{len(told)} events in {time.monotonic() - began:.0f} s")


async def measure(system: System, measured: Measured, began: float) -> None:
    await asyncio.sleep(WARM_SHARE * SECONDS)
    while (elapsed := time.monotonic() - began) < SECONDS:
        for name, samples in measured.items():
            samples.append(sample(system.supervisor.pid(name), elapsed))
        await asyncio.sleep((1 - WARM_SHARE) * SECONDS / SAMPLES)


async def ask(system: System, began: float) -> None:
    number = 0
    while time.monotonic() - began < SECONDS:
        await system.client.rank(f"u{number % USERS}", timeout=30)
        number += 1
        await asyncio.sleep(ASK_SECONDS)
    print(f"{number} rankings")


async def retrain(system: System, began: float) -> None:
    """Before the measuring, and in the middle of it."""
    for share in (WARM_SHARE / 2, (1 + WARM_SHARE) / 2):
        await asyncio.sleep(max(0.0, began + share * SECONDS - time.monotonic()))
        before = (await system.client.rank("u1", timeout=30)).model_version
        trainer = await asyncio.create_subprocess_exec(
            *system.layout.trainer_command(), env=system.layout.trainer_env(),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert await trainer.wait() == 0, "the trainer publishes"

        async def swapped(before: str = before) -> bool:
            return (await system.client.rank("u1", timeout=30)).model_version != before

        await until(swapped, SWAP_SECONDS, "the new model is served")


def show(measured: Measured) -> list[str]:
    """Prints the trends; returns what is not flat."""
    table = Table("part", "least memory, MB, by time", "an hour", "open files", "an hour")
    grown = []
    for name, samples in measured.items():
        lowest = floor(samples, "memory")
        memory, files = trend(lowest, "memory"), trend(floor(samples, "files"), "files")
        table.add_row(
            name, " ".join(f"{found.memory / MEGABYTE:.0f}" for found in lowest), f"{memory.an_hour / MEGABYTE:+.1f} MB",
            f"{files.first:.0f}", f"{files.an_hour:+.1f}",
        )  # fmt: skip
        if name != BROKER and not (memory.is_flat(BYTES_MORE) and files.is_flat(FILES_MORE)):
            grown.append(name)
    Console(width=120).print(table)
    return grown
