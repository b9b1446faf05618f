"""The embedded Kafka-protocol broker (noida-db) that stands in for Kafka on one machine.

It holds everything in memory and writes a snapshot about every 1.3 s: what it acknowledged since the last one
is lost when it is killed, and offsets lost that way are given out again. For trying out and for tests, never for
data one cares about; off whenever FINESTREAM_KAFKA_BOOTSTRAP is set.
"""

import asyncio
import importlib.util
import socket
import subprocess
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared import logs
from shared.errors import Unavailable

START_SECONDS = 30.0
STOP_SECONDS = 20.0
HOST = "127.0.0.1"
log = logs.get(__name__)


def command(data_dir: Path, port: int) -> list[str]:
    """The command line that runs the broker in the foreground. SIGTERM saves everything, SIGKILL does not.

    Its first line on stderr, about a weak glibc version, is harmless. Raises Unavailable when it is not installed.
    """
    spec = importlib.util.find_spec("noida_db")
    if spec is None or spec.origin is None:
        raise Unavailable("the embedded broker is not installed: pip install 'finestream[local]'")
    binary = Path(spec.origin).with_name("noida-db")
    return [str(binary), "start", "--data-dir", str(data_dir), "--only", "kafka", "--kafka-port", str(port)]


def warn_not_durable(data_dir: Path, port: int) -> None:
    """The one line that says what this broker is not."""
    log.warning(
        "embedded broker: not durable across a kill (the last ~1.3 s of acknowledged records may be lost); set"
        " FINESTREAM_KAFKA_BOOTSTRAP to use a real Kafka",
        address=f"{HOST}:{port}",
        data_dir=str(data_dir),
    )


class Broker:
    """The embedded broker as a child process of this one; its output goes to `data_dir`/broker.log."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self._data_dir = data_dir
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the broker has not been started")
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it answers the Kafka protocol. Raises Unavailable when it does not."""
        _check_free(self._port)
        warn_not_durable(self._data_dir, self._port)
        self._data_dir.mkdir(parents=True, exist_ok=True)
        with (self._data_dir / "broker.log").open("ab") as output:
            # Its own session: Ctrl-C reaches the services first, and the broker only when it is told to stop.
            self._process = subprocess.Popen(  # noqa: ASYNC220  # returns at once
                command(self._data_dir, self._port), stdout=output, stderr=output, start_new_session=True
            )
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._answers():  # noqa: ASYNC110  # another process: there is no event
                    await asyncio.sleep(0.05)
        except TimeoutError:
            self.stop()
            raise Unavailable(f"the embedded broker did not answer at {self.bootstrap}") from None

    def stop(self) -> None:
        """Stop it with everything saved; kill it when it does not go in time."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("embedded broker did not stop in time and is killed", pid=self._process.pid)
            self._process.kill()
            self._process.wait()

    async def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            code = self._process.returncode
            raise Unavailable(f"the embedded broker ended with code {code}; see {self._data_dir / 'broker.log'}")
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=2_000)
        try:
            await admin.start()
        except (KafkaError, OSError):
            return False
        finally:
            await admin.close()
        return True


def _check_free(port: int) -> None:
    # Whoever listens there would answer in the broker's place.
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise Unavailable(f"something else listens on {HOST}:{port}; choose another port for the embedded broker")
