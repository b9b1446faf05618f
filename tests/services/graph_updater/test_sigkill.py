"""What the embedded store has acknowledged survives SIGKILL, unflushed."""

import signal
import subprocess
import sys
from pathlib import Path

from services.graph_updater.store_edge import open_edge
from tests.services.graph_updater.doubles import SPACE

CHILD = """
import asyncio, sys
from pathlib import Path
from services.graph_updater.store_edge import open_edge
from tests.services.graph_updater.doubles import SPACE
from tests.services.graph_updater.test_store import row

async def main():
    store = open_edge(Path(sys.argv[1]), SPACE, 3600.0)
    n = int(sys.argv[2])
    while True:
        n += 1
        await store.put("users", [row(f"u{n % 50}", n, b"x" * 2000 + str(n).encode())])
        print(n, flush=True)

asyncio.run(main())
"""


async def test_every_acknowledged_write_survives_sigkill(tmp_path: Path) -> None:
    first = write_and_kill(tmp_path, 0, 300)
    last = write_and_kill(tmp_path, first + 1, first + 170)  # in a store that was killed before
    store = open_edge(tmp_path, SPACE, 5.0)
    found = await store.get("users", [f"u{n}" for n in range(50)])
    await store.close()
    newest = {f"u{n % 50}": n for n in range(1, last + 1)}
    # The very next write may have been done and not yet acknowledged.
    late = {node for node, n in newest.items() if found[node].version != n}
    assert late <= {f"u{(last + 1) % 50}"}
    assert all(held.state == b"x" * 2000 + str(held.version).encode() for held in found.values())


def write_and_kill(folder: Path, after: int, until: int) -> int:
    """Write versions from after + 1 on, and kill once `until` is acknowledged. Returns the last acknowledged."""
    command = [sys.executable, "-c", CHILD, str(folder), str(after)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        last = 0
        for line in child.stdout:
            last = int(line)
            if last == until:
                child.send_signal(signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL
    return last
