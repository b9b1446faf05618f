"""shared/door/calls.py without a door: what it makes of a piece of the stream, and what it writes."""

import asyncio
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from shared.door.calls import Calls
from shared.door.frames import ANSWER, CALL, GONE, WHEN, Unpacker, pack
from tests.parts import until


class Written(asyncio.Transport):
    """A test double: keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.writes.append(b"".join(list_of_data))


class Waiting:
    """Answers a message by itself, in upper case, once the gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = 0

    async def __call__(self, message: bytes, _: Any) -> bytes:
        self.begun += 1
        await self.gate.wait()
        return message.upper()


def opened() -> tuple[Calls, Waiting, Written]:
    waiting, written = Waiting(), Written()
    handler = SimpleNamespace(request_deserializer=bytes, response_serializer=bytes, unary_unary=waiting)
    calls = Calls({"/example/Wait": handler}, print, None)
    calls.connection_made(written)
    return calls, waiting, written


def call(number: int) -> bytes:
    now = time.monotonic()
    return pack(CALL, number, 0, WHEN.pack(now, now + 60.0) + b"abc")


async def test_answers_of_one_turn_of_the_event_loop_leave_in_one_write() -> None:
    calls, waiting, written = opened()
    calls.data_received(b"".join(call(number) for number in range(5)))
    await until(lambda: waiting.begun == 5, 5, "all have begun")
    waiting.gate.set()
    await until(lambda: bool(written.writes), 5, "they are answered")
    [piece] = written.writes
    assert list(Unpacker().frames(piece)) == [(ANSWER, number, 0, b"ABC") for number in range(5)]
    calls.data_received(call(5))
    await until(lambda: len(written.writes) == 2, 5, "so is one that comes later")


async def test_who_leaves_before_or_while_a_call_is_worked_on_leaves_nothing_behind() -> None:
    calls, waiting, written = opened()
    before = len(asyncio.all_tasks())
    calls.data_received(call(1) + call(2) + pack(GONE, 1))
    await until(lambda: waiting.begun == 1, 5, "the one that stays has begun")
    calls.data_received(pack(GONE, 2) + pack(GONE, 3))
    await until(lambda: len(asyncio.all_tasks()) == before, 5, "both have ended")
    assert not calls._tasks
    assert not written.writes
