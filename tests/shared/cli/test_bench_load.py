"""The load that `finestream bench rank` sends: against a real grpc.aio server in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from tests.bench import echo
from tests.bench.cores import split
from tests.bench.http2 import OK, OVERLOADED
from tests.bench.load import Target, saturating, steady
from tests.bench.rank import echoing


class Scripted(grpc.GenericRpcHandler):
    """Answers a message of its size in "x"; refuses b"refuse"; waits for `gate` where there is one."""

    def __init__(self) -> None:
        self.gate: asyncio.Event | None = None

    def service(self, _details: Any) -> Any:
        async def call(request: bytes, context: Any) -> bytes:
            if self.gate:
                await self.gate.wait()
            if request == b"refuse":
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no")
            return b"x" * len(request)

        return grpc.unary_unary_rpc_method_handler(call)


@asynccontextmanager
async def scripted(handler: Scripted) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_answers_are_counted_by_their_status_and_the_last_message_is_kept() -> None:
    async with scripted(Scripted()) as address:
        answers = await saturating(Target(address, "/a.B/C", [b"one", b"refuse", b"two"]), 4, 0.3)
    assert answers.statuses().keys() == {OK, OVERLOADED}
    assert answers.neither == 0
    assert answers.largest == 4
    assert answers.sent == sum(answers.statuses().values())
    assert 0 < answers.in_time <= answers.statuses()[OK]
    assert answers.answer == b"\0\0\0\0\3xxx"


async def test_large_messages_wait_for_the_servers_window() -> None:
    message = b"m" * 16_000
    async with scripted(Scripted()) as address:
        answers = await saturating(Target(address, "/a.B/C", [message]), 64, 0.3)
    assert answers.statuses() == {OK: answers.sent}
    assert len(answers.answer) == len(message) + 5


async def test_calls_are_sent_while_none_is_answered_and_time_counts_from_when_they_were_due() -> None:
    handler = Scripted()
    handler.gate = asyncio.Event()
    async with scripted(handler) as address:
        asyncio.get_running_loop().call_later(0.5, handler.gate.set)
        answers = await steady(Target(address, "/a.B/C", [b"m"]), 200.0, 0.5)
    assert 60 < answers.sent < 150
    assert answers.largest == pytest.approx(answers.sent, abs=5)
    # of calls due evenly over half a second that all end after it, half have waited for a quarter
    assert 150.0 < answers.milliseconds(0.5) < 450.0


async def test_a_call_that_its_deadline_ends_is_neither_answered_nor_refused() -> None:
    handler = Scripted()
    handler.gate = asyncio.Event()
    async with scripted(handler) as address:
        answers = await steady(Target(address, "/a.B/C", [b"m"], timeout="100m"), 100.0, 0.2)
    assert answers.neither == answers.sent


async def test_the_bare_server_answers_what_it_was_given() -> None:
    with echoing(split()[0], b"seven b") as (address, _):
        answers = await saturating(Target(address, echo.METHOD, [b"m"]), 1, 0.1)
    assert answers.answer[5:] == b"seven b"
