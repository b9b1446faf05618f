"""A stock Faust agent that drops what it gets. Imports nothing of ours: what we change in Faust is not to help it."""

import asyncio
import secrets
import tempfile
from collections.abc import Sequence
from typing import Any

import faust
import uvloop

from tests.bench.alone import Numbers
from tests.bench.stopwatch import Stopwatch


def stock(bootstrap: str, topics: Sequence[str], count: int) -> Numbers:
    """How fast the bytes of `count` records come, on the event loop that our services run on."""
    return uvloop.run(_receive(bootstrap, topics, count))


async def _receive(bootstrap: str, topics: Sequence[str], count: int) -> Numbers:
    watch, done = Stopwatch(), asyncio.Event()

    async def drop(stream: Any) -> None:
        async for _ in stream:
            watch.count(1)
            if watch.seen == count:
                done.set()

    with tempfile.TemporaryDirectory(prefix="finestream-bench-") as folder:
        app = _app(bootstrap, folder)
        app.agent(app.topic(*topics, key_serializer="raw", value_serializer="raw"))(drop)
        app.finalize()
        await app.start()
        await done.wait()
        numbers = watch.numbers()
        await app.stop()
    return numbers


def _app(bootstrap: str, folder: str) -> faust.App:
    """Faust's defaults, less its web server, leader topic and topics of its own, of which nothing here has a use."""
    return faust.App(
        f"stock-{secrets.token_hex(4)}", broker=f"kafka://{bootstrap}", datadir=folder, web_enabled=False,
        topic_disable_leader=True, topic_allow_declare=False,
    )  # fmt: skip
