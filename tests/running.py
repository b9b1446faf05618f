"""A service as its own process, as the cluster starts it."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import IO

READY_SECONDS = 60.0


class Running:
    """`python -m services.<name>.main` with ports of its own; its log goes to a file."""

    def __init__(self, name: str, folder: Path, **environment: str) -> None:
        self._log_path = folder / f"{name}-{time.monotonic_ns()}.log"
        self._log: IO[bytes] = self._log_path.open("wb")
        prefix = f"FINESTREAM_{name.upper()}_"
        ports = {f"{prefix}PORT": "0", f"{prefix}METRICS_PORT": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"services.{name}.main"],
            env={**os.environ, **ports, **environment},
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def ready(self) -> "Running":
        """Wait until /readyz says so."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            address = self.logged(r'"address": "([\d.]+:\d+)"')
            if address and answers(f"http://{address}/readyz"):
                return self
            time.sleep(0.05)
        code = self.process.poll()
        self.kill()
        raise AssertionError(f"not ready (exit code {code}):\n{self.log}")

    def logged(self, pattern: str) -> str:
        """The first group of the first match in the log; empty where there is none.

        The settings that a service logs at its start are passed over: they name addresses of others.
        """
        lines = (line for line in self.log.splitlines() if '"event": "starting"' not in line)
        return next((found[1] for line in lines if (found := re.search(pattern, line))), "")

    @property
    def grpc_address(self) -> str:
        port = self.logged(r'"port": (\d+), "tls"')
        return f"127.0.0.1:{port}"

    def metric(self, name: str, **labels: str) -> float:
        """A sample of /metrics; 0 where there is none."""
        return sample(self.logged(r'"address": "([\d.]+:\d+)"'), name, **labels)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop in {seconds} s:\n{self.log}") from None
        finally:
            self._log.close()


def children(pid: int | str) -> set[int]:
    """Processes that a process has started, whichever thread did; "self" for our own."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


def sample(address: str, name: str, **labels: str) -> float:
    """Of the metrics at an address; 0 where there is none."""
    with urllib.request.urlopen(f"http://{address}/metrics?name[]={name}", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.split("{")[0].split(" ")[0] == name and all(f'{k}="{v}"' in line for k, v in labels.items()):
                return float(line.rsplit(" ", 1)[1])
    return 0.0


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
