"""shared/tokens.py and `finestream token`: a wrong file is one sentence; an entry is made for a token, and holds none."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner

from shared import rpc
from shared.cli.main import app
from shared.service import Health, WrongSetting
from shared.settings import GrpcSettings, ServiceSettings
from shared.tokens import Token, digest, read
from tests.parts import refusal_of

A, B = digest(b"a").hex(), digest(b"b").hex()


def file_of(folder: Path, text: str) -> Path:
    path = folder / "tokens.yaml"
    path.write_text(text)
    return path


def entry(name: str = "shop", sha256: str = A, scopes: str = "[rank]", more: str = "") -> str:
    return f"{{name: {name}, sha256: '{sha256}', scopes: {scopes}{more}}}"


def test_a_file_is_read_as_yaml_and_as_json(tmp_path: Path) -> None:
    limits = f"- {entry(more=', requests_per_second: 2.5, burst: 7, max_bytes: 100')}"
    assert read(file_of(tmp_path, limits)) == (Token("shop", A, ("rank",), 2.5, 7, 100),)
    assert read(file_of(tmp_path, f'[{{"name": "x", "sha256": "{A}", "scopes": ["admin"]}}]')) == (
        Token("x", A, ("admin",)),
    )
    assert read(file_of(tmp_path, "# none yet")) == ()


def test_without_a_burst_what_comes_in_a_second_may_come_at_once() -> None:
    assert [Token("t", A, ("rank",), rate).at_once for rate in (0.1, 1, 2.5, 200)] == [1, 1, 3, 200]


BAD = {
    "no list": ("tokens: []", "Expected `array`"),
    "a token instead of its digest": (f"[{entry(sha256='secret')}]", "$[0].sha256"),
    "no scope": (f"[{entry(scopes='[]')}]", "$[0].scopes"),
    "a scope there is none of": (f"[{entry(scopes='[root]')}]", "Invalid enum value 'root'"),
    "a rate of 0": (f"[{entry(more=', requests_per_second: 0')}]", "$[0].requests_per_second"),
    "a burst without a rate": (f"[{entry(more=', burst: 5')}]", "burst goes with requests_per_second"),
    "a size of 0": (f"[{entry(more=', max_bytes: 0')}]", "$[0].max_bytes"),
    "a name twice": (f"[{entry()}, {entry(sha256=B)}]", "two tokens have the name shop"),
    "a token twice": (f"[{entry()}, {entry('other')}]", f"two tokens have the sha256 {A}"),
    "a field there is none of": (f"[{entry(more=', rate: 5')}]", "unknown field `rate`"),
    "too many": ("[" + ",".join(entry(f"t{n}", f"{n:064x}") for n in range(65)) + "]", "has 65 tokens; at most 64"),
}


@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD.keys())
async def test_a_wrong_file_is_one_sentence_and_a_wrong_setting(tmp_path: Path, text: str, says: str) -> None:
    path = file_of(tmp_path, text)
    assert says in refusal_of(path, read)
    settings = ServiceSettings(grpc=GrpcSettings(token=SecretStr("x"), tokens_file=path))
    with pytest.raises(WrongSetting, match="FINESTREAM_GRPC_TOKENS_FILE: "):
        await rpc.serve(settings, "example", lambda server: None, [], Health())


def test_a_file_of_tokens_needs_the_token_by_which_services_call_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="tokens_file needs token"):
        GrpcSettings(tokens_file=file_of(tmp_path, ""))


def test_a_new_token_is_told_on_stderr_and_its_entry_can_be_appended_to_the_file(tmp_path: Path) -> None:
    path, told = tmp_path / "tokens.yaml", []
    for arguments in (
        ["shop", "--scopes", "rank, events", "--rate", "5", "--max-bytes", "99"],
        ["ops", "--scopes", "admin"],
    ):
        made = CliRunner().invoke(app, ["token", "new", *arguments])
        assert made.exit_code == 0
        told.append(made.stderr.split()[-1])
        assert told[-1] not in made.stdout
        with path.open("a") as file:
            file.write(made.stdout)
    shop, ops = read(path)
    assert shop == Token("shop", digest(told[0].encode()).hex(), ("rank", "events"), 5.0, None, 99)
    assert ops == Token("ops", digest(told[1].encode()).hex(), ("admin",))


def test_what_would_be_no_entry_is_one_line_and_exit_code_2() -> None:
    made = CliRunner().invoke(app, ["token", "new", "shop", "--scopes", "everything"])
    assert (made.exit_code, made.stdout) == (2, "")
    assert made.stderr.startswith("finestream: this would be no entry: Invalid enum value 'everything'")
