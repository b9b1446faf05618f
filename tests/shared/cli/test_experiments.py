"""`finestream experiments report` over an archive on disk."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shared import topics
from shared.cli.main import app
from tests.shared.local.test_verify import write_archive
from tests.shared.test_click_through import met, shown

runner = CliRunner()
SINCE = ["experiments", "report", "--since", "2023-11-14", "--hours", "0.02"]


def test_a_report_tells_rates_and_where_nothing_is_sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    impressions = [shown(f"u{n}", "abcd", 0, "larger" if n % 2 else "") for n in range(400)]
    impressions += [shown("one", "abcd", 0, "tiny")]
    clicks = [met(f"u{n}", "a", 9) for n in range(400) if n % 2 or n % 4 == 0]
    url = write_archive(
        tmp_path,
        [
            *((topics.INTERACTIONS, one) for one in [*clicks, met("nobody", "z", 200)]),
            *((topics.IMPRESSIONS, one) for one in impressions),
        ],
    )
    monkeypatch.setenv("FINESTREAM_ARCHIVE_URL", url)
    told = runner.invoke(app, SINCE).output
    assert "12.50%" in told
    assert "25.00%" in told
    assert "nothing is sure: fewer than 30 users" in told
    report = json.loads(runner.invoke(app, [*SINCE, "--json"]).output)
    assert report["rates"]["larger"] == {"users": 200, "shown": 800, "clicked": 200, "rate": 0.25, "error": 0.0}
    assert report["against_control"]["larger"]["low"] > 0


def test_an_archive_without_impressions_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESTREAM_ARCHIVE_URL", str(tmp_path))
    assert "nothing was shown" in runner.invoke(app, SINCE).output
