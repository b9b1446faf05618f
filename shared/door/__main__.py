"""`python -m shared.door FD OPENING LEVEL`: what a service starts (calls.py).

Ends when it is told to, or the service has ended: signals it leaves to the service, which may have calls to answer
yet. The settings of gRPC it reads itself, so that secrets are in no command line.
"""

import signal
import socket
import sys

import msgspec

from shared import logs
from shared.door.line import Line
from shared.door.server import Opening, serve
from shared.service import hand_over_soon, spare_collector
from shared.settings import GrpcSettings


def main() -> None:
    descriptor, opening, level = sys.argv[1:]
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, signal.SIG_IGN)
    logs.configure("door", level)
    spare_collector()
    hand_over_soon()  # who sends answers to who takes calls
    line = Line(socket.socket(fileno=int(descriptor)))
    serve(msgspec.json.decode(opening, type=Opening), GrpcSettings(), line)


if __name__ == "__main__":
    main()
