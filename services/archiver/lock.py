"""One archiver a share on one machine: a lock that ends with the process, however it ends."""

import fcntl
import time
from pathlib import Path
from typing import IO

from shared.archive import Store


class Held(Exception):
    """Another process holds the lock."""


def acquire(store: Store, manifest_name: str, wait_seconds: float) -> IO[bytes] | None:
    """Hold the returned file open for as long as the lock is needed; None where the store is not a local folder.

    A process that is being replaced needs a moment for its last flush: wait that long, then raise Held. In an object
    store the writer's check before every manifest swap finds a second process, and the one of the later start wins.
    """
    if not store.is_local:
        return None
    path = Path(store.path(f".{manifest_name}.lock"))
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                raise Held(f"another archiver writes {store.path(manifest_name)}") from None
            time.sleep(0.05)
        else:
            return file
