"""The door's end of the socket: calls of many threads, each of which waits for its answer."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import count, pairwise
from typing import Final

from shared.door.frames import ANSWER, CALL, GONE, WHEN, Frame, Unpacker, pack

PIECE_BYTES: Final = 256 * 1024
NUMBERS: Final = 2**32


class Ticket:
    """One call that is not answered yet."""

    __slots__ = ("body", "following", "released", "status")

    def __init__(self) -> None:
        self.released = threading.Lock()
        self.released.acquire()
        self.status = -1  # nobody waits any more
        self.body = b""
        self.following: Ticket | None = None  # the next to be released


class Line:
    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()
        self._tickets: dict[int, Ticket] = {}
        self._numbers = count(1)

    def ask(self, method: int, message: bytes, seconds: float, on_end: Callable[[Callable[[], None]], bool]) -> Ticket:
        """Return when the call is answered or has ended. `on_end` takes what is to be done when it ends, or says that
        it has.
        """
        ticket, number, now = Ticket(), next(self._numbers) % NUMBERS, time.monotonic()
        self._tickets[number] = ticket
        self.send(pack(CALL, number, method, WHEN.pack(now, now + seconds) + message))
        if not on_end(partial(self._ended, number)):
            self._ended(number)
        ticket.released.acquire()
        if ticket.following is not None:
            ticket.following.released.release()
        return ticket

    def send(self, frame: bytes) -> None:
        with self._sending, suppress(OSError):  # the service has ended, which `heard` tells
            self._socket.sendall(frame)

    def heard(self) -> Iterator[Frame]:
        """All but answers, which are handed to those who wait for them; ends when the service does."""
        unpacker = Unpacker()
        while piece := self._piece():
            answered = []
            for frame in unpacker.frames(piece):
                if frame[0] != ANSWER:
                    yield frame
                elif ticket := self._answered(*frame[1:]):
                    answered.append(ticket)
            _release(answered)

    def close(self) -> None:
        """Also for who reads or writes."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _piece(self) -> bytes:
        try:
            return self._socket.recv(PIECE_BYTES)
        except OSError:  # closed, by us or by a service that was killed
            return b""

    def _answered(self, number: int, status: int, body: bytes) -> Ticket | None:
        ticket = self._tickets.pop(number, None)  # only one gets it: this, or the end of the call
        if ticket is not None:
            ticket.status, ticket.body = status, body
        return ticket

    def _ended(self, number: int) -> None:
        ticket = self._tickets.pop(number, None)
        if ticket is not None:
            ticket.released.release()
            self.send(pack(GONE, number))


def _release(tickets: Sequence[Ticket]) -> None:
    """Each releases the next: a batch of threads that wake at once would keep grpc's own from refusing."""
    for ticket, following in pairwise(tickets):
        ticket.following = following
    if tickets:
        tickets[0].released.release()
