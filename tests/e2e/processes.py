"""What the e2e tests need to start `finestream` and to see what it leaves behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

FINESTREAM = [sys.executable, "-m", "shared.cli.main"]


class Command:
    """A running `finestream`, its output read as it comes."""

    def __init__(self, arguments: list[str], env: Mapping[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*FINESTREAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def until(self, pattern: str, seconds: float) -> re.Match[str]:
        """Wait for a line that matches."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            assert not ended, f"it ended before {pattern!r}:\n{self.output}"
            time.sleep(0.05)
        raise AssertionError(f"no {pattern!r} within {seconds} s:\n{self.output}")

    def ended(self, seconds: float) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))


@contextmanager
def finestream(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Command]:
    """A command that is ended with the test, whatever happens."""
    command = Command(list(arguments), env)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.send_signal(signal.SIGTERM)
            try:
                command.process.wait(60)
            except subprocess.TimeoutExpired:
                command.process.kill()
                command.process.wait()


def processes_of(folder: Path) -> dict[int, str]:
    """Processes whose environment or command line names the folder: pid -> command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            mentions = str(folder).encode() in (path / "environ").read_bytes() or str(folder) in command
        except OSError:  # it has just ended, or is another user's
            continue
        if mentions and command and int(path.name) != os.getpid():
            found[int(path.name)] = command
    return found
