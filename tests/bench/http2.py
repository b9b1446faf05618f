"""gRPC's unary calls over bare HTTP/2 (RFC 9113), for a load that costs little beside the server it is sent to.

A Python gRPC client takes about as much CPU a call as a Python gRPC server, so it would measure itself. This one sends
headers that were encoded once, and reads statuses only. It asks the server to compress headers without a table
(SETTINGS_HEADER_TABLE_SIZE 0): equal trailers are then equal bytes, and are decoded once.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Final, cast

from hpack import Decoder, Encoder, NeverIndexedHeaderTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
LARGEST: Final = 2**31 - 1
FIRST_WINDOW: Final = 65_535
LARGEST_FRAME: Final = 16_384
WISHES: Final = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, LARGEST)  # no table, no pushes, streams of any length
HEAD_BYTES: Final = 9
OK: Final = "0"  # grpc-status
OVERLOADED: Final = "8"
LOST: Final = "lost"  # no status came

Done = Callable[[str], None]  # told the grpc-status


class Connection(asyncio.Protocol):
    """Calls of one method. `timeout` is each call's deadline as gRPC writes it: 1S, 250m."""

    def __init__(self, method: str, timeout: str) -> None:
        self._headers = _encoded(method, timeout)
        self._done: dict[int, Done] = {}
        self._next = 1
        self._window = FIRST_WINDOW  # bytes that the server takes
        self._blocked: deque[tuple[bytes, Done]] = deque()
        self._held = b""
        self._transport: asyncio.Transport | None = None
        self.received = 0  # bytes of all answers
        self.answer = b""  # the last one, as it came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        more = struct.pack(">I", LARGEST - FIRST_WINDOW)
        self._transport.write(PREFACE + frame(SETTINGS, 0, 0, WISHES) + frame(WINDOW_UPDATE, 0, 0, more))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for done in [*self._done.values(), *(done for _, done in self._blocked)]:
            done(LOST)
        self._done.clear()
        self._blocked.clear()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def call(self, message: bytes, done: Done) -> None:
        """Send a message of at most 16 KiB now, or as soon as the server has room."""
        body = b"\0" + struct.pack(">I", len(message)) + message
        assert len(body) <= LARGEST_FRAME, "one frame only"
        if self._transport is None:
            done(LOST)
        elif self._blocked or len(body) > self._window:
            self._blocked.append((body, done))
        else:
            self._send(body, done)

    def _send(self, body: bytes, done: Done) -> None:
        assert self._transport is not None
        stream, self._next = self._next, self._next + 2
        self._window -= len(body)
        self._done[stream] = done
        head = frame(HEADERS, END_HEADERS, stream, self._headers)
        self._transport.write(head + frame(DATA, END_STREAM, stream, body))

    def data_received(self, data: bytes) -> None:
        data, at = self._held + data, 0
        while len(data) - at >= HEAD_BYTES:
            length = int.from_bytes(data[at : at + 3], "big")
            if len(data) - at < HEAD_BYTES + length:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            at += HEAD_BYTES
            self._take(kind, flags, stream, data[at : at + length])
            at += length
        self._held = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self.received += len(payload)
            self.answer = payload
        elif kind == HEADERS and flags & END_STREAM:
            self._end(stream, _status(payload))
        elif kind == RST_STREAM:
            self._end(stream, LOST)
        elif kind == WINDOW_UPDATE and not stream:
            self._window += int.from_bytes(payload, "big")
            while self._blocked and len(self._blocked[0][0]) <= self._window:
                self._send(*self._blocked.popleft())
        elif kind in (SETTINGS, PING) and not flags & ACK:
            assert self._transport is not None
            self._transport.write(frame(kind, ACK, 0, b"" if kind == SETTINGS else payload))
        elif kind == GOAWAY:
            self.close()

    def _end(self, stream: int, status: str) -> None:
        done = self._done.pop(stream, None)
        if done is not None:
            done(status)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _encoded(method: str, timeout: str) -> bytes:
    """Headers that change no table, so that the same bytes say the same in every call."""
    headers = {
        ":method": "POST", ":scheme": "http", ":path": method, ":authority": "bench", "te": "trailers",
        "content-type": "application/grpc", "grpc-timeout": timeout,
    }  # fmt: skip
    return Encoder().encode([NeverIndexedHeaderTuple(name, value) for name, value in headers.items()])


@lru_cache(maxsize=1024)
def _status(trailers: bytes) -> str:
    """Raises hpack.HPACKError where the server uses a table all the same."""
    decoder = Decoder()
    decoder.header_table_size = 0
    return next((str(value) for name, value in decoder.decode(trailers) if name == "grpc-status"), LOST)
