"""ranking as several processes on one port: all answer, and they end together."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest

from shared.kafka import Producer
from shared.pb.finestream.v1 import ranking_pb2_grpc
from shared.pb.finestream.v1.ranking_pb2 import RankRequest
from tests.parts import free_port, until
from tests.running import Running, answers, children, sample
from tests.services.ranking.doubles import GraphDouble, item_of
from tests.services.ranking.test_ranking_process import announce

pytestmark = pytest.mark.e2e
COUNT = 2
RPCS = "finestream_rpc_seconds_count"


def free_pair() -> int:
    """The first of two free ports that follow each other."""
    while True:
        first = free_port()
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", first + 1))
            return first


class Together:
    def __init__(self, graph: GraphDouble, folder: Path) -> None:
        self.port, self.metrics_port = free_port(), free_pair()
        self.parent = Running(
            "ranking", folder, FINESTREAM_GRAPH_ADDRESS=f"127.0.0.1:{graph.port}",
            FINESTREAM_BUNDLES_URL=str(folder / "bundles"), FINESTREAM_RANKING_PROCESSES=str(COUNT),
            FINESTREAM_RANKING_PORT=str(self.port), FINESTREAM_RANKING_METRICS_PORT=str(self.metrics_port),
        )  # fmt: skip

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{self.metrics_port + number}" for number in range(COUNT)]

    @property
    def children(self) -> list[int]:
        return sorted(children(self.parent.process.pid))

    async def ready(self) -> None:
        def all_are() -> bool:
            assert self.parent.process.poll() is None, self.parent.log
            return all(answers(f"http://{address}/readyz") for address in self.addresses)

        await until(lambda: asyncio.to_thread(all_are), 60, "all are ready")

    async def ask(self) -> None:
        """Over a connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options) as channel:
            await ranking_pb2_grpc.RankingServiceStub(channel).Rank(RankRequest(user_id="u"), timeout=10)

    def have_all_answered(self) -> bool:
        method = "/finestream.v1.RankingService/Rank"
        return all(sample(address, RPCS, method=method, code="OK") for address in self.addresses)

    def ended(self) -> int:
        return self.parent.process.wait(30)


def gone(pids: list[int]) -> Callable[[], bool]:
    return lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids)


@asynccontextmanager
async def together(graph: GraphDouble, producer: Producer, folder: Path) -> AsyncIterator[tuple[Together, list[int]]]:
    await announce(producer, graph, item_of("i1", users=1))
    started = Together(graph, folder)
    children: list[int] = []
    try:
        await started.ready()
        children = started.children
        assert len(children) == COUNT
        yield started, children
        await until(gone(children), 30, "nobody is left")
    finally:
        for pid in (pid for pid in children if Path(f"/proc/{pid}").exists()):
            os.kill(pid, signal.SIGKILL)
        started.parent.kill()


async def test_they_share_the_port_and_stop_together_when_told_to(
    graph: GraphDouble, producer: Producer, tmp_path: Path
) -> None:
    async with together(graph, producer, tmp_path) as (system, _):

        async def all_answer() -> bool:
            await system.ask()
            return await asyncio.to_thread(system.have_all_answered)

        await until(all_answer, 30, "each has answered")
        assert await asyncio.to_thread(system.parent.stop) == 0


async def test_when_one_ends_the_others_are_stopped_and_the_code_says_that_one_was_lost(
    graph: GraphDouble, producer: Producer, tmp_path: Path
) -> None:
    async with together(graph, producer, tmp_path) as (system, children):
        os.kill(children[1], signal.SIGKILL)
        assert await asyncio.to_thread(system.ended) == 1
        assert system.parent.log.count('"event": "stopped"') == COUNT - 1, "they stop as when they are told to"


async def test_nothing_outlives_the_one_that_started_them(
    graph: GraphDouble, producer: Producer, tmp_path: Path
) -> None:
    async with together(graph, producer, tmp_path) as (system, _):
        system.parent.process.kill()
        await asyncio.to_thread(system.ended)


@pytest.mark.parametrize(
    ("setting", "says"), [("PORT", "share one port; name it"), ("METRICS_PORT", "more than there are")]
)
def test_ports_that_cannot_be_shared_or_counted_are_a_wrong_setting(
    setting: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINESTREAM_RANKING_PROCESSES", "2")
    monkeypatch.setenv(f"FINESTREAM_RANKING_{setting}", {"PORT": "0", "METRICS_PORT": "65535"}[setting])
    ended = subprocess.run(
        [sys.executable, "-m", "services.ranking.main"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, len(ended.stderr.strip().splitlines())) == (2, 1)
    assert says in ended.stderr


def test_what_a_process_says_by_its_exit_code_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is taken shows only when it is opened: each of them says so, and ends with 2."""
    process = Running("ranking", tmp_path)
    try:
        monkeypatch.setenv("FINESTREAM_RANKING_PROCESSES", "2")
        monkeypatch.setenv("FINESTREAM_RANKING_PORT", process_port(process))
        ended = subprocess.run(
            [sys.executable, "-m", "services.ranking.main"], capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 2
        assert "gRPC port" in ended.stderr
    finally:
        process.kill()


def process_port(process: Running) -> str:
    asyncio.run(until(lambda: bool(process.logged(r'"port": (\d+), "tls"')), 60, "the port is open"))
    return process.logged(r'"port": (\d+), "tls"')
