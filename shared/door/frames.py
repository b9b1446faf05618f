"""What a door and its service tell each other: frames of a head and a body, over one local socket."""

import struct
from collections.abc import Iterator
from typing import Final

HEAD: Final = struct.Struct("<IIBBxx")  # the body's bytes, the call's number, the kind, and a number of the kind's
WHEN: Final = struct.Struct("<dd")  # in front of a message: arrival and deadline on time.monotonic's clock

# From the door:
CALL, GONE, OPENED, FAILED, TOLD = range(5)  # number: method; body: when and message | - | port | sentence | Told
# From the service:
ANSWER, READY, STOP = range(5, 8)  # number: status, body: message or sentence | 1 or 0 | body: seconds of grace

Frame = tuple[int, int, int, bytes]  # kind, call, number, body


def pack(kind: int, call: int = 0, number: int = 0, body: bytes = b"") -> bytes:
    return HEAD.pack(len(body), call, kind, number) + body


class Unpacker:
    """Frames of a stream that comes in pieces."""

    def __init__(self) -> None:
        self._held = b""

    def frames(self, piece: bytes) -> Iterator[Frame]:
        """Those that have become whole."""
        data, at = self._held + piece, 0
        while len(data) - at >= HEAD.size:
            length, call, kind, number = HEAD.unpack_from(data, at)
            end = at + HEAD.size + length
            if end > len(data):
                break
            yield kind, call, number, data[at + HEAD.size : end]
            at = end
        self._held = data[at:]
