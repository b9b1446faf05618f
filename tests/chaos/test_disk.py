"""A disk that takes no more: what the archiver and the embedded engine write fails for a while.

A full file system cannot be had everywhere without privileges, so it is played by the limit on the size of files of the
running process. Pages of a file that is mapped into memory already are not limited by it.
"""

import asyncio
import time
from pathlib import Path
from typing import Final

import pytest

from shared import archive, topics
from shared.local.watch import behind
from tests.chaos.breaking import (
    EVENTS,
    RECOVERY_SECONDS,
    SEED,
    TIMEOUT_SECONDS,
    break_often,
    check,
    probe,
    until_fresh,
    until_more,
)
from tests.chaos.story import story
from tests.e2e.conftest import System
from tests.parts import full_disk, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(TIMEOUT_SECONDS)]
GRAPH: Final = "graph_updater"
WRITTEN_BYTES: Final = 100  # then it is full: in the middle of the first file


async def test_an_archiver_whose_disk_is_full_for_a_while_loses_nothing(system: System) -> None:
    async def fill_for_a_while() -> float:
        with full_disk(WRITTEN_BYTES, system.supervisor.pid("archiver")):
            await probe(system)
            await until_more(system, "archiver", "finestream_archiver_write_failures_total", 2.0)
        began, ends = time.monotonic(), await system.watch.ends(topics.ARCHIVED)

        async def archived() -> bool:
            return behind(ends, await asyncio.to_thread(archive.offsets, system.archive_url)) == 0

        await until(archived, RECOVERY_SECONDS, "what waited is archived")
        return time.monotonic() - began

    await break_often(system, fill_for_a_while, "full disk of the archiver")
    await system.supervisor.restart("archiver")
    assert files_of(system.archive_url) == files_named(system.archive_url), "the next start removes what was cut off"


def files_of(url: str) -> set[str]:
    """Everything below topic=..., also what a failed write left."""
    return {str(path.relative_to(url)) for path in Path(url).glob("topic=*/day=*/*")}


def files_named(url: str) -> set[str]:
    return {file.path for manifest in archive.manifests(archive.Store(url)) for file in manifest.files}


async def test_a_graph_updater_whose_embedded_engine_meets_a_full_disk_for_a_while_loses_nothing(
    system: System,
) -> None:
    told = list(story(EVENTS, SEED))
    half = len(told) // 2
    with full_disk(WRITTEN_BYTES, system.supervisor.pid(GRAPH)):  # before its first write, which makes its files
        await system.send(told[:half])
        await until_more(system, GRAPH, "finestream_stream_retries_total", 3.0)
    seconds = await until_fresh(system)
    await system.send(told[half:])
    await check(system, told)
    print(f"full disk of the embedded engine: recovered in {seconds:.1f} s")
