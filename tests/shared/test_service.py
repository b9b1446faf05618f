"""shared/service.py: health, exit codes and clean stops of a real process."""

import asyncio
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from shared.service import Health

PROGRAM = """
import asyncio, sys
from shared.service import Runtime, WrongSetting, run
from shared.settings import ServiceSettings

async def compose(runtime: Runtime[ServiceSettings]) -> None:
    mode = sys.argv[1]
    if mode == "wrong":
        raise WrongSetting("FINESTREAM_X: no such thing")
    if mode == "defect":
        raise ValueError("a defect")
    if mode == "silent":
        runtime.health.watch("work", 0.05)
    runtime.health.ready()
    await runtime.stopping.wait()

run("example", ServiceSettings, compose)
"""


def start(mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, mode], stderr=subprocess.PIPE, text=True)


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = start(request.param)
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r'"address": "([\d.]+:\d+)"', line)
        if found:
            break
    yield process, f"http://{found[1]}"
    process.kill()
    process.wait()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def eventually(url: str, status: int) -> str:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        code, text = get(url)
        if code == status:
            return text
    raise AssertionError(f"{url} never answered {status}")


@pytest.mark.parametrize("running", ["fine"], indirect=True)
def test_a_service_reports_and_stops_cleanly_on_sigterm(running: tuple[subprocess.Popen[str], str]) -> None:
    process, url = running
    eventually(url + "/readyz", 200)
    assert get(url + "/livez") == (200, "ok")
    assert 'finestream_service_info{service="example"' in get(url + "/metrics")[1]
    few = get(url + "/metrics?name[]=finestream_service_info")[1]
    assert [line.split("{")[0] for line in few.splitlines() if line[0] != "#"] == ["finestream_service_info"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


@pytest.mark.parametrize("running", ["silent"], indirect=True)
def test_work_that_has_gone_silent_fails_liveness_by_name(running: tuple[subprocess.Popen[str], str]) -> None:
    assert "work" in eventually(running[1] + "/livez", 503)


@pytest.mark.parametrize(("mode", "code"), [("wrong", 2), ("defect", 1)])
def test_what_fails_while_composing_decides_the_exit_code(mode: str, code: int) -> None:
    process = start(mode)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    if mode == "wrong":
        assert err.splitlines()[-1] == "finestream: FINESTREAM_X: no such thing"


def test_a_taken_metrics_port_is_a_wrong_setting() -> None:
    async def listen() -> tuple[int, str]:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, "fine", env={"FINESTREAM_METRICS_PORT": str(port)},
            stderr=subprocess.PIPE,
        )  # fmt: skip
        _, err = await asyncio.wait_for(process.communicate(), 20)
        server.close()
        return process.returncode or 0, err.decode()

    code, err = asyncio.run(listen())
    assert code == 2
    assert "metrics port 127.0.0.1:" in err.splitlines()[-1]


def test_listeners_hear_of_readiness_now_and_at_every_change() -> None:
    health, heard = Health(), []
    health.on_change(heard.append)
    health.ready()
    health.not_ready("no bundle")
    assert heard == [False, True, False]
    assert health.reason == "no bundle"
