"""Log lines carry their part's name, and are for the eye on a terminal alone."""

import io
import json
from pathlib import Path

from rich.console import Console

from shared.local.loglines import InFiles, OnConsole, level_of, short

LINE = json.dumps({"event": "gRPC port open", "port": 7, "service": "gateway", "level": "warning",
                   "timestamp": "2026-11-21T04:38:21.193007Z"})  # fmt: skip


def printed(terminal: bool, line: str) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=40, color_system="standard" if terminal else None)
    OnConsole(console)("gateway", line)
    return out.getvalue()


def test_a_line_stays_as_it_is_where_there_is_no_terminal() -> None:
    assert printed(False, LINE) == f"gateway       | {LINE}\n"


def test_a_line_is_short_and_coloured_on_a_terminal() -> None:
    shown = printed(True, LINE)
    assert "04:38:21 warning gRPC port open port=7" in shown
    assert "\x1b[" in shown


def test_markup_in_a_line_is_text() -> None:
    assert "[bold]x[/bold]" in printed(False, "[bold]x[/bold]")


def test_lines_that_are_no_json_are_passed_on() -> None:
    for line in ("Traceback:", "{broken", "[1]", '"text"', "{}"):
        assert short(line) == line
        assert level_of(line) == ""


def test_each_part_has_a_file_of_its_own(tmp_path: Path) -> None:
    sink = InFiles(tmp_path / "logs")
    sink("a", "one")
    sink("b", "two")
    sink("a", "three")
    sink.close()
    assert (tmp_path / "logs" / "a.log").read_text() == "one\nthree\n"
    assert (tmp_path / "logs" / "b.log").read_text() == "two\n"
