"""`finestream verify`: what it prints, what it writes, and its exit codes."""

import asyncio
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from shared.cli import verify as command
from shared.cli.main import app
from shared.kafka import ensure_topics
from shared.settings import KafkaSettings
from shared.verification.check import NodeDifference, Outcome, Report
from shared.verification.differences import FieldDifference
from tests.parts import free_port

EQUAL = Report(Outcome(2, 2, 0), Outcome(3, 3, 0), [], [])
LOST = FieldDifference("interactions", [f"e{n} (click of [b1], noon)" for n in range(5)], ["x1"])
DIFFERENT = Report(
    Outcome(30, 5, 25), Outcome(3, 2, 1),
    [
        NodeDifference("item", "b1", True, [FieldDifference("order", [], [])]),
        NodeDifference("user", "u", False, [LOST]),
        *(NodeDifference("user", f"u{n}", True, [LOST]) for n in range(24)),
    ],
    ["items 2: offsets 0 to 4 are neither in the archive nor in Kafka"],
)  # fmt: skip
runner = CliRunner()


def printed(report: Report, *, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    command.show(report, console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_where_there_is_no_terminal_it_prints_plain_lines() -> None:
    assert printed(EQUAL).splitlines() == [
        "users: 2 compared, 2 equal, 0 different",
        "items: 3 compared, 3 equal, 0 different",
        "the live states are what the log says",
    ]


def test_differences_are_shortened_and_at_most_20_nodes_are_printed() -> None:
    lines = printed(DIFFERENT).splitlines()
    assert lines[2] == "the log has a hole: items 2: offsets 0 to 4 are neither in the archive nor in Kafka"
    assert lines[3:8] == [
        "item b1",
        "  the same facts in an order that the fold does not give",
        "user u: no live state",
        "  interactions: only the log has e0 (click of [b1], noon); e1 (click of [b1], noon);"
        " e2 (click of [b1], noon); and 2 more",
        "  interactions: only the live state has x1",
    ]
    assert sum(line.startswith(("user ", "item ")) for line in lines) == command.PRINTED_NODES
    assert lines[-2:] == ["and 6 more", "the live states differ from the log"]


def test_on_a_terminal_the_counts_are_a_table() -> None:
    assert "┃ compared ┃ equal ┃ different ┃" in printed(EQUAL, terminal=True).replace("\x1b[1m", "").replace(
        "\x1b[0m", ""
    )


@pytest.mark.parametrize(("report", "code"), [(EQUAL, 0), (DIFFERENT, 1)], ids=["equal", "different"])
def test_the_exit_code_says_it_and_the_file_has_all_of_it(
    report: Report, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(users: int, items: int, seed: int, seconds: float) -> Report:
        assert (users, items, seed, seconds) == (7, 0, 3, 1.5)
        return report

    monkeypatch.setattr(command, "_check", found)
    path = tmp_path / "report.json"
    options = ["--users", "7", "--items", "0", "--seed", "3", "--seconds", "1.5", "--json", str(path)]
    assert runner.invoke(app, ["verify", *options]).exit_code == code
    written = json.loads(path.read_bytes())
    assert written["users"] == {
        "compared": report.users.compared, "equal": report.users.equal, "different": report.users.different,
    }  # fmt: skip
    assert len(written["nodes"]) == len(report.nodes)


@pytest.mark.parametrize(
    ("options", "says"), [(["--users", "-1"], "--users"), (["--json", "/no/such/folder/report.json"], "no folder")]
)
def test_a_wrong_option_is_exit_code_2(options: list[str], says: str) -> None:
    shown = runner.invoke(app, ["verify", *options])
    assert shown.exit_code == 2
    assert says in shown.output


def test_a_wrong_setting_is_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESTREAM_KAFKA_PARTITIONS", "many")
    shown = runner.invoke(app, ["verify"])
    assert shown.exit_code == 2
    assert "FINESTREAM_KAFKA_PARTITIONS" in shown.output


def test_a_graph_that_does_not_answer_is_one_sentence_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESTREAM_GRAPH_ADDRESS", "127.0.0.1:1")
    shown = runner.invoke(app, ["verify"])
    assert shown.exit_code == 2
    assert shown.output.startswith("finestream: graph_updater at 127.0.0.1:1: UNAVAILABLE")
    assert len(shown.output.splitlines()) == 1


async def _answers(*_: object) -> None:
    pass


def test_a_kafka_that_does_not_answer_is_one_sentence_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESTREAM_KAFKA_BOOTSTRAP", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(command, "_probe", _answers)
    shown = runner.invoke(app, ["verify"])
    assert shown.exit_code == 2
    assert shown.output.startswith("finestream: Kafka: KafkaConnectionError")
    assert len(shown.output.splitlines()) == 1


def test_a_damaged_archive_is_one_sentence_and_exit_code_2(
    kafka_environment: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(ensure_topics(kafka_environment))
    (tmp_path / "manifest-0-of-1.json").write_text("{")
    monkeypatch.setenv("FINESTREAM_ARCHIVE_URL", str(tmp_path))
    monkeypatch.setattr(command, "_probe", _answers)
    shown = runner.invoke(app, ["verify"])
    assert shown.exit_code == 2
    assert "manifest-0-of-1.json is no manifest" in shown.output
    assert len(shown.output.splitlines()) == 1
