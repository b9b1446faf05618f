"""A door whose threads are this process's: as shared/door/__main__.py runs it, without the process."""

import socket
import threading
from collections.abc import Callable

from shared.door.calls import Begin
from shared.door.frames import FAILED, pack
from shared.door.line import Line
from shared.door.server import Door, Opening
from shared.service import WrongSetting
from shared.settings import GrpcSettings

END_SECONDS = 10.0


def with_settings(options: GrpcSettings) -> Begin:
    def begin(end: socket.socket, opening: Opening) -> Callable[[], None]:
        line = Line(end)
        thread = threading.Thread(target=_run, args=(line, opening, options), daemon=True)
        thread.start()

        def ended() -> None:
            thread.join(END_SECONDS)
            assert not thread.is_alive(), "the door has ended"

        return ended

    return begin


def in_threads(end: socket.socket, opening: Opening) -> Callable[[], None]:
    return with_settings(GrpcSettings())(end, opening)


def _run(line: Line, opening: Opening, options: GrpcSettings) -> None:
    try:
        door = Door(opening, options, line, counted=())  # its counters are the service's
    except WrongSetting as error:
        line.send(pack(FAILED, body=str(error).encode()))
        line.close()
    else:
        door.run()
