"""The door's end of the socket: calls on their way to the service, and answers on their way back."""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Final

from shared.door.frames import ANSWER, CALL, GONE, WHEN, Frame, Unpacker, pack
from shared.errors import Overloaded

PIECE_BYTES: Final = 256 * 1024
NUMBERS: Final = 2**32
MOST_UNSENT: Final = 64 * 1024 * 1024  # bytes: a service that reads nothing for so long answers nothing in time
Answered = Callable[[int, bytes], None]  # the status, and the message or a sentence


class Line:
    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._asked: dict[int, Answered] = {}
        self._numbers = count(1)
        self._unsent: deque[bytes] = deque()  # the first is being sent
        self._unsent_bytes = 0
        self._sending = threading.Condition()
        threading.Thread(target=self._catch_up, name="send", daemon=True).start()

    def ask(
        self, method: int, message: bytes, seconds: float, on_end: Callable[[Callable[[], None]], bool],
        answered: Answered,
    ) -> None:  # fmt: skip
        """Returns at once; `answered` is called by who hears, unless the call has ended. `on_end` takes what is to be
        done when it ends, or says that it has. Raises Overloaded where the service has not read what came before.
        """
        if self._unsent_bytes > MOST_UNSENT:
            raise Overloaded("the service does not keep up with what is sent to it; try again with back-off")
        number, now = next(self._numbers) % NUMBERS, time.monotonic()
        self._asked[number] = answered
        self.send(pack(CALL, number, method, WHEN.pack(now, now + seconds) + message))
        if not on_end(partial(self._ended, number)):
            self._ended(number)

    def send(self, frame: bytes) -> None:
        """Returns at once, whether the service reads or not."""
        with self._sending:
            left = frame if self._unsent else self._unsent_of(frame)
            if left:
                self._unsent.append(left)
                self._unsent_bytes += len(left)
                self._sending.notify()

    def heard(self) -> Iterator[Frame]:
        """All but answers, which are handed to those who asked; ends when the service does."""
        unpacker = Unpacker()
        while piece := self._piece():
            for kind, number, status, body in unpacker.frames(piece):
                if kind != ANSWER:
                    yield kind, number, status, body
                elif answered := self._asked.pop(number, None):  # only one gets it: this, or the end of the call
                    answered(status, body)

    def close(self) -> None:
        """Also for who reads or writes."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._sending:
            self._socket.close()
            self._sending.notify()

    def _piece(self) -> bytes:
        try:
            return self._socket.recv(PIECE_BYTES)
        except OSError:  # closed, by us or by a service that was killed
            return b""

    def _ended(self, number: int) -> None:
        if self._asked.pop(number, None):
            self.send(pack(GONE, number))

    def _unsent_of(self, frame: bytes) -> bytes:
        try:
            return frame[self._socket.send(frame, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            return frame
        except OSError:  # the service has ended, which `heard` tells
            return b""

    def _catch_up(self) -> None:
        """Send what found no room, until the socket is closed."""
        with suppress(OSError):
            while True:
                with self._sending:
                    self._sending.wait_for(lambda: self._unsent or self._socket.fileno() < 0)
                    if not self._unsent:
                        return
                self._socket.sendall(self._unsent[0])
                with self._sending:
                    self._unsent_bytes -= len(self._unsent.popleft())
