"""shared/door/line.py: what goes to the service, and who hears of its answers."""

import socket
from collections.abc import Callable, Iterator

import grpc
import pytest

from shared.door.frames import ANSWER, CALL, GONE, WHEN, Frame, Unpacker, pack
from shared.door.line import MOST_UNSENT, Line
from shared.errors import Overloaded
from shared.rpc_edge import status_of

Ends = tuple[Line, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    line = Line(ours)
    yield line, theirs
    line.close()
    theirs.close()


def frames(theirs: socket.socket, count: int) -> list[Frame]:
    unpacker, found = Unpacker(), list[Frame]()
    theirs.settimeout(10)
    while len(found) < count:
        found += unpacker.frames(theirs.recv(100_000))
    return found


def test_a_call_that_has_ended_before_it_is_noted_is_told_to_be_gone(ends: Ends) -> None:
    line, theirs = ends
    line.ask(3, b"m", 1.0, lambda _: False, lambda *_: pytest.fail("nobody waits for it"))
    (call, gone) = frames(theirs, 2)
    assert (call[0], call[2], call[3][WHEN.size :]) == (CALL, 3, b"m")
    assert gone[:2] == (GONE, call[1])


def test_of_its_answer_and_its_end_a_call_has_the_first_alone(ends: Ends) -> None:
    line, theirs = ends
    on_end: list[Callable[[], None]] = []
    answers: list[tuple[int, bytes]] = []
    for _ in range(2):
        line.ask(0, b"", 1.0, lambda end: on_end.append(end) is None, lambda *answer: answers.append(answer))
    answered, left = (number for _, number, _, _ in frames(theirs, 2))
    on_end[1]()
    assert frames(theirs, 1) == [(GONE, left, 0, b"")]
    theirs.sendall(pack(ANSWER, answered, 0, b"a") + pack(ANSWER, left, 0, b"b") + pack(ANSWER, answered, 0, b"c"))
    theirs.shutdown(socket.SHUT_WR)
    assert list(line.heard()) == []
    assert answers == [(0, b"a")]
    on_end[0]()
    line.send(pack(GONE, 9))
    assert frames(theirs, 1) == [(GONE, 9, 0, b"")], "of the answered one nothing is told"


def test_what_is_sent_while_nobody_reads_comes_whole_and_in_order(ends: Ends) -> None:
    line, theirs = ends
    sent = [pack(ANSWER, n, 0, bytes([n]) * n * 10_000) for n in range(60)]  # many times what a socket holds
    for frame in sent:
        line.send(frame)
    assert [number for _, number, _, body in frames(theirs, 60) if body == bytes([number]) * number * 10_000] == [
        *range(60)
    ]


def test_while_the_service_reads_nothing_calls_are_refused_before_they_fill_the_memory(ends: Ends) -> None:
    line, theirs = ends
    message = bytes(4 * 1024 * 1024)
    asked = MOST_UNSENT // len(message) + 1  # with one that was begun

    def ask() -> None:
        line.ask(0, message, 1.0, lambda _: True, lambda *_: pytest.fail("it is not answered"))

    for _ in range(asked):
        ask()
    with pytest.raises(Overloaded, match="try again") as refused:
        ask()
    assert status_of(refused.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
    frames(theirs, asked)
    line.ask(0, b"m", 1.0, lambda _: True, lambda *_: pytest.fail("there is room again"))
    assert frames(theirs, 1)[0][0] == CALL


def test_to_a_service_that_has_ended_nothing_is_sent(ends: Ends) -> None:
    line, theirs = ends
    theirs.close()
    line.ask(0, b"m", 1.0, lambda _: True, lambda *_: None)
    assert list(line.heard()) == []
