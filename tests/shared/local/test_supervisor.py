"""The supervisor over small children of our own: what starts, dies, hangs and stops, and in which order."""

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.local.child import Child, Part, PartFailed, lines
from shared.local.supervisor import Supervisor

GOOD = """
import pathlib, signal, sys, time
def stop(*_):
    print("stopping", flush=True)
    with open({journal!r}, "a") as journal:
        journal.write({name!r} + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("hello", flush=True)
pathlib.Path({flag!r}).touch()
while True:
    time.sleep(0.05)
"""
DEAF = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({flag!r}).write_text(str(child.pid))
time.sleep(600)
"""
DIES = "import sys; print('no such table: users', file=sys.stderr); sys.exit(3)"


class Lines:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.seen.append((name, line))


def part(folder: Path, name: str, code: str = GOOD, start_seconds: float = 20.0, stop_seconds: float = 10.0) -> Part:
    flag = folder / f"{name}.ready"

    async def ready() -> str:
        return "" if flag.exists() else "warming up"

    source = code.format(flag=str(flag), journal=str(folder / "journal"), name=name) if "{" in code else code
    command = [sys.executable, "-c", source]
    return Part(name, command, ready, env=os.environ, start_seconds=start_seconds, stop_seconds=stop_seconds)


async def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_parts_stop_in_the_reverse_of_their_start(tmp_path: Path) -> None:
    stages = [[part(tmp_path, "broker")], [part(tmp_path, "gateway"), part(tmp_path, "ranking")]]
    supervisor = Supervisor(stages, Lines())
    await supervisor.start()
    assert await supervisor.stop() == []
    assert (tmp_path / "journal").read_text().split() == ["ranking", "gateway", "broker"]


async def test_a_part_has_a_process_group_of_its_own_in_our_session_so_that_niceness_counts(tmp_path: Path) -> None:
    async with Supervisor([[part(tmp_path, "nice")]], Lines()) as supervisor:
        pid = supervisor.pid("nice")
        assert (os.getpgid(pid), os.getsid(pid)) == (pid, os.getsid(0))


async def test_each_line_carries_its_part(tmp_path: Path) -> None:
    sink = Lines()
    async with Supervisor([[part(tmp_path, "a"), part(tmp_path, "b")]], sink):
        pass
    assert {("a", "hello"), ("a", "stopping"), ("b", "hello"), ("b", "stopping")} <= set(sink.seen)


async def test_a_part_that_dies_at_start_is_told_with_its_code_and_last_lines(tmp_path: Path) -> None:
    supervisor = Supervisor([[part(tmp_path, "good"), part(tmp_path, "bad", DIES)]], Lines())
    with pytest.raises(PartFailed, match=r"bad exited with 3 while starting; its last lines:\n  no such table: users"):
        async with supervisor:
            pytest.fail("it must not start")
    assert (tmp_path / "journal").read_text().split() == ["good"]


async def test_a_part_that_is_never_ready_is_told_with_its_reason(tmp_path: Path) -> None:
    slow = part(tmp_path, "slow", "import time; time.sleep(600)", start_seconds=0.3)
    with pytest.raises(PartFailed, match=r"slow is not ready after 0.3 s: warming up; it wrote nothing"):
        async with Supervisor([[slow]], Lines()):
            pytest.fail("it must not start")


async def test_a_part_whose_place_is_taken_is_not_started(tmp_path: Path) -> None:
    (tmp_path / "twin.ready").touch()
    with pytest.raises(PartFailed, match="twin cannot be started: another process already answers in its place"):
        async with Supervisor([[part(tmp_path, "twin")]], Lines()):
            pytest.fail("it must not start")
    assert not (tmp_path / "journal").exists()


async def test_a_program_that_does_not_exist_is_told(tmp_path: Path) -> None:
    missing = Part("ghost", [str(tmp_path / "ghost")], part(tmp_path, "ghost").ready, env=os.environ)
    with pytest.raises(PartFailed, match="ghost cannot be started"):
        async with Supervisor([[missing]], Lines()):
            pytest.fail("it must not start")


async def test_a_death_while_running_is_told_and_nothing_is_started_again(tmp_path: Path) -> None:
    supervisor = Supervisor([[part(tmp_path, "a"), part(tmp_path, "b")]], Lines())
    async with supervisor:
        watch = asyncio.create_task(supervisor.failed())
        os.kill(supervisor.pid("b"), signal.SIGKILL)
        async with asyncio.timeout(10):
            failure = await watch
        assert "b was ended by SIGKILL while running" in str(failure)
        assert not alive(supervisor.pid("b"))


async def test_a_part_that_ignores_sigterm_is_killed_with_what_it_started(tmp_path: Path) -> None:
    supervisor = Supervisor([[part(tmp_path, "deaf", DEAF, stop_seconds=0.3)]], Lines())
    await supervisor.start()
    await eventually(lambda: bool((tmp_path / "deaf.ready").read_text()))
    grandchild = int((tmp_path / "deaf.ready").read_text())
    assert alive(grandchild)
    assert await supervisor.stop() == ["deaf did not stop within 0.3 s and was killed"]
    await eventually(lambda: not alive(grandchild))


async def test_a_restart_is_no_failure_and_keeps_the_order_of_the_stop(tmp_path: Path) -> None:
    supervisor = Supervisor([[part(tmp_path, "a"), part(tmp_path, "b"), part(tmp_path, "c")]], Lines())
    async with supervisor:
        watch = asyncio.create_task(supervisor.failed())
        before = supervisor.pid("a")
        (tmp_path / "a.ready").unlink()
        await supervisor.restart("a")
        assert supervisor.pid("a") != before
        assert not watch.done()
        await eventually(lambda: alive(supervisor.pid("a")))
        watch.cancel()
    assert (tmp_path / "journal").read_text().split()[-3:] == ["c", "b", "a"]


async def test_kill_all_ends_a_stop_that_would_last(tmp_path: Path) -> None:
    supervisor = Supervisor([[part(tmp_path, "deaf", DEAF, stop_seconds=60.0)]], Lines())
    await supervisor.start()
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0)
    supervisor.kill_all()
    async with asyncio.timeout(10):
        assert "deaf was ended by SIGKILL" in (await stopping)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
async def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, os, sys
        from shared.local.child import Child, Part
        async def ready(): return ""
        async def main():
            child = await Child.spawn(
                Part("x", [sys.executable, "-c", "import time; time.sleep(600)"], ready, env=os.environ), print)
            open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
            await asyncio.sleep(600)
        asyncio.run(main())
    """)
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    pid_file = tmp_path / "pid"
    await eventually(lambda: pid_file.exists() and bool(pid_file.read_text()))
    child = int(pid_file.read_text())
    assert alive(child)
    parent.kill()
    await parent.wait()
    await eventually(lambda: not alive(child))


async def test_a_child_runs_at_its_niceness(tmp_path: Path) -> None:
    async def ready() -> str:
        return ""

    command = [sys.executable, "-c", "import os; print(os.nice(0))"]
    sink = Lines()
    child = await Child.spawn(Part("n", command, ready, env=os.environ, niceness=7), sink)
    assert await child.exited() == 0
    assert sink.seen == [("n", str(os.nice(0) + 7))]


async def test_lines_are_whole_and_bounded() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(b"one\r\ntwo\n" + b"x" * 200_000 + b"\nlast")
    stream.feed_eof()
    seen = [line async for line in lines(stream)]
    assert seen[:2] == ["one", "two"]
    assert seen[-1] == "last"
    assert "".join(seen[2:-1]) == "x" * 200_000
    assert max(map(len, seen)) < 200_000
