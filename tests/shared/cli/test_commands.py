"""The console script: every command shows an example, and a wrong argument is one clear sentence."""

import json
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from shared.cli.main import app

runner = CliRunner()
LEAVES = [
    ["up"], ["demo"], ["replay"], ["rank"], ["similar"], ["train"], ["evaluate"], ["verify"], ["rebuild"], ["respace"], ["extract"],
    ["prepay"], ["evaluate-extraction"], ["evaluate-diversity"], ["attributes", "discover"], ["attributes", "make"], ["bench"], ["schema"],
    ["settings"],
    ["publish", "click"], ["publish", "review"], ["publish", "item"],
    ["bundles", "list"], ["bundles", "rollback"], ["experiments", "report"], ["dlq", "list"], ["dlq", "show"], ["dlq", "replay"],
    ["token", "new"],
]  # fmt: skip


def leaves(command: object, path: tuple[str, ...] = ()) -> list[list[str]]:
    found = getattr(command, "commands", None)
    if found is None:
        return [list(path)]
    return [leaf for name, child in found.items() for leaf in leaves(child, (*path, name))]


def test_the_list_of_commands_is_whole() -> None:
    assert sorted(leaves(typer.main.get_command(app))) == sorted(LEAVES)


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_the_help_of_each_command_shows_an_example_of_it(command: list[str]) -> None:
    shown = runner.invoke(app, [*command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: finestream {' '.join(command)}" in click.unstyle(shown.output)


def test_schema_prints_the_schema_of_every_topic() -> None:
    shown = runner.invoke(app, ["schema"])
    assert {"interactions", "reviews", "items"} <= json.loads(shown.output)["properties"].keys()


def test_settings_has_every_variable_once_with_its_meaning() -> None:
    lines = runner.invoke(app, ["settings"]).output.splitlines()[2:]
    variables = [line.split("`")[1] for line in lines if line]
    assert len(set(variables)) == len(variables)
    assert {"FINESTREAM_KAFKA_BOOTSTRAP", "FINESTREAM_GATEWAY_PORT", "FINESTREAM_RANKING_ADDRESS"} <= set(variables)
    assert all(line.split("|")[3].strip() for line in lines if line)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["replay", "/no/such/file"], "does not exist"),
        (["demo", "--items", __file__], "--items goes with --reviews"),
        (["dlq", "show", "nonsense"], "choose one of"),
        (["publish", "review", "u", "i", "text", "--rating", "9"], "less than or equal to 5"),
    ],
)
def test_a_wrong_argument_is_told(arguments: list[str], says: str) -> None:
    shown = runner.invoke(app, arguments)
    assert shown.exit_code == 2
    assert says in click.unstyle(shown.output).replace("\n", " ")


def test_a_system_that_is_not_there_is_one_sentence_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESTREAM_GATEWAY_ADDRESS", "127.0.0.1:1")
    shown = runner.invoke(app, ["publish", "click", "u", "i"])
    assert shown.exit_code == 1
    assert shown.output.startswith("finestream: UNAVAILABLE")
    assert len(shown.output.splitlines()) == 1


def test_a_wrong_setting_is_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESTREAM_KAFKA_PARTITIONS", "many")
    shown = runner.invoke(app, ["dlq", "list"])
    assert shown.exit_code == 2
    assert "FINESTREAM_KAFKA_PARTITIONS" in shown.output


def test_bundles_of_an_empty_store_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESTREAM_BUNDLES_URL", str(tmp_path))
    assert "no releases in" in runner.invoke(app, ["bundles", "list"]).output
    shown = runner.invoke(app, ["bundles", "rollback"])
    assert shown.exit_code == 1
    assert "has no version before the current one" in shown.output
