"""Files that are whole or not there."""

import os
from pathlib import Path
from uuid import uuid4


def replace(path: Path, data: bytes) -> None:
    """A reader gets the old bytes or the new ones. Raises OSError, and then the old ones are still there."""
    # fsync before and after the rename: after a power cut the name holds the old bytes or the new ones.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk every try would leave another one
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
