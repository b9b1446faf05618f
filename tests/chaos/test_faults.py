"""Services and the broker broken on purpose while a stream runs: nothing lost, live states equal to a rebuild.

The embedded broker is only ever stopped, never killed: it is not durable.
"""

import os
import time

import pytest

from shared.local.layout import BROKER
from tests.chaos.breaking import EVERY_TOPIC, FAULTS, TIMEOUT_SECONDS, break_often
from tests.e2e.conftest import System

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(TIMEOUT_SECONDS)]
SERVICES = ["extractor", "graph_updater", "archiver", "ranking", "gateway"]


@pytest.mark.parametrize("victim", SERVICES)
async def test_a_service_killed_at_random_points_of_a_stream_loses_nothing(system: System, victim: str) -> None:
    async def kill() -> float:
        began = time.monotonic()
        await system.supervisor.restart(victim)
        return time.monotonic() - began

    await break_often(system, kill, f"SIGKILL of {victim}")


@pytest.mark.skipif("FINESTREAM_KAFKA_BOOTSTRAP" in os.environ, reason="the broker that is set is not ours to stop")
async def test_a_broker_that_stops_and_starts_again_loses_nothing(system: System) -> None:
    async def stop_and_start() -> float:
        before, began = await system.watch.ends(EVERY_TOPIC), time.monotonic()
        await system.supervisor.restart(BROKER, kill=False)
        seconds, kept = time.monotonic() - began, await system.watch.ends(EVERY_TOPIC)
        lost = {(t, p): (end, kept[t][p]) for t, ends in before.items() for p, end in ends.items() if kept[t][p] < end}
        assert not lost, "the broker itself forgot acknowledged records"
        return seconds

    await break_often(system, stop_and_start, "restart of the broker", max(1, FAULTS // 10))
