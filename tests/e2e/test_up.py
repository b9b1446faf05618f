"""`finestream up`: ready, usable, and gone without a trace however it ends."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Command, finestream, processes_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

START_SECONDS = 200.0  # on a machine that does much else
STOP_SECONDS = 90.0


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Command]:
    with finestream("up", "--free-ports", "--data", str(tmp_path)) as command:
        command.until(r"clients find it by", START_SECONDS)
        yield command


def gone(folder: Path) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not processes_of(folder):
            return True
        time.sleep(0.05)
    return False


def addresses(system: Command) -> dict[str, str]:
    named = system.until(r"clients find it by: (.*)", 1)[1]
    return dict(pair.split("=", 1) for pair in named.split())


def test_it_serves_clients_and_stops_cleanly_on_ctrl_c(system: Command, tmp_path: Path) -> None:
    env = addresses(system)
    with finestream("publish", "item", "lamp-1", "--title", "Desk lamp", "--category", "Lamps", env=env) as publish:
        assert publish.ended(60) == 0, publish.output
    with finestream("publish", "review", "alice", "lamp-1", "The light is great.", env=env) as publish:
        assert publish.ended(60) == 0, publish.output
        assert "published: reviews" in publish.output
    with finestream("publish", "review", "alice", "lamp-1", "", env=env) as refused:
        assert refused.ended(60) == 1
        assert "INVALID_ARGUMENT: text is empty" in refused.output
    with finestream("rank", "bob", "--k", "3", env=env) as rank:
        assert rank.ended(60) == 0, rank.output
        assert "rung popular" in rank.output
    with finestream("dlq", "list", env=env) as letters:
        assert letters.ended(60) == 0, letters.output
        assert "no dead letters" in letters.output
    system.process.send_signal(signal.SIGINT)
    assert system.ended(STOP_SECONDS) == 0, system.output
    assert gone(tmp_path)


@pytest.mark.slow
def test_a_service_that_dies_ends_everything_and_is_named(system: Command, tmp_path: Path) -> None:
    archiver = next(pid for pid, command in processes_of(tmp_path).items() if "services.archiver.main" in command)
    os.kill(archiver, signal.SIGKILL)
    assert system.ended(STOP_SECONDS) == 1
    assert "finestream: archiver was ended by SIGKILL while running" in system.output
    assert gone(tmp_path)


@pytest.mark.slow
def test_nothing_outlives_a_supervisor_that_is_killed(system: Command, tmp_path: Path) -> None:
    assert len(processes_of(tmp_path)) >= 7  # itself, the broker, five services
    system.process.kill()
    system.process.wait()
    assert gone(tmp_path)


def test_a_wrong_setting_of_a_service_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    wrong = {"FINESTREAM_GATEWAY_MAX_IN_FLIGHT": "many"}
    with finestream("up", "--free-ports", "--data", str(tmp_path), env=wrong) as command:
        assert command.ended(STOP_SECONDS) == 1
    assert "gateway exited with 2 while starting" in command.output
    assert "FINESTREAM_GATEWAY_MAX_IN_FLIGHT" in command.output
    assert gone(tmp_path)
