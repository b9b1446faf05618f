"""A door whose threads are this process's: as shared/door/__main__.py runs it, without the process."""

import socket
import threading
from collections.abc import Callable

from shared.door.calls import Begin
from shared.door.line import Line
from shared.door.server import Opening, serve
from shared.settings import GrpcSettings

END_SECONDS = 10.0


def with_settings(options: GrpcSettings) -> Begin:
    def begin(end: socket.socket, opening: Opening) -> Callable[[], None]:
        line = Line(end)
        # Nothing is counted there: its counters are the service's.
        thread = threading.Thread(target=serve, args=(opening, options, line, ()), daemon=True)
        thread.start()

        def ended() -> None:
            thread.join(END_SECONDS)
            assert not thread.is_alive(), "the door has ended"

        return ended

    return begin


def in_threads(end: socket.socket, opening: Opening) -> Callable[[], None]:
    return with_settings(GrpcSettings())(end, opening)
