"""Several processes of one service that share its port. They end together: when one ends, an orchestrator is to know.

Linux: should this process be killed, the others are told to stop.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from shared import logs

STOP_SECONDS: Final = 20.0  # from SIGTERM to SIGKILL
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None  # loaded before any fork
log = logs.get(__name__)


def dying_with_us(sign: signal.Signals) -> Callable[[], None]:
    """A preexec_fn: the child gets this signal when we die. Between fork and exec, so system calls only."""
    parent = os.getpid()

    def in_child() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, sign, 0, 0, 0)
            if os.getppid() != parent:  # we died before the line above
                os._exit(1)

    return in_child


def run_together(command: Sequence[str], variables: Sequence[Mapping[str, str]]) -> int:
    """Run a process with each of these beside our own environment until we are told to stop or one ends; then stop
    the others.

    The exit code of the one that ended first; 0 where we were told to stop and all did; 1 for one that was killed.
    """
    children = [
        subprocess.Popen(command, env={**os.environ, **own}, preexec_fn=dying_with_us(signal.SIGTERM))
        for own in variables
    ]
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: _terminate(children))
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # any of them; Popen is left to collect it
    first = next(child for child in children if child.poll() is not None)
    log.info("a process has ended; the others are stopped", pid=first.pid, code=first.returncode)
    _terminate(children)
    codes = [_ended(child) for child in [first, *children]]
    return next((1 if code < 0 else code for code in codes if code not in (0, -signal.SIGTERM)), 0)


def _terminate(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    for child in children:
        child.terminate()


def _ended(child: "subprocess.Popen[bytes]") -> int:
    try:
        return child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()
