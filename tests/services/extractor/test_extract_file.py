"""services/extractor/extract_file.py, estimate.py: a file's opinions to look at, and what they cost or would cost."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.extractor.estimate import estimate
from services.extractor.extract_file import Shown, arguments, dry_run, extract, texts_of
from services.extractor.settings import ExtractorSettings, OpenAISettings
from shared.errors import Unavailable
from shared.experiments.readers import BadLines
from shared.service import WrongSetting
from shared.space import Space
from tests.services.extractor.doubles import answering, endpoint, settings_for

TEXT = "The sound is warm."
GOOD = {
    **answering(("sound", "warm", "positive", "sound is warm"), ("price", "cheap", "positive", "so cheap")),
    "usage": {"prompt_tokens": 1000, "completion_tokens": 100},
}


def amazon(text: str) -> str:
    return json.dumps({"reviewerID": "u", "asin": "i", "unixReviewTime": 1_400_000_000, "reviewText": text})


def read(path: Path) -> tuple[list[tuple[int, str]], BadLines]:
    bad = BadLines(path)
    return list(texts_of(path, bad)), bad


def of(*texts: str) -> Iterator[tuple[int, str]]:
    return iter(enumerate(texts, 1))


def test_amazon_lines_packed_or_not_and_plain_text_are_read_and_bad_lines_passed_over(tmp_path: Path) -> None:
    lines = "\n".join([amazon("one"), "{", amazon(" "), "", amazon("two")]).encode()
    (tmp_path / "a").write_bytes(lines)
    (tmp_path / "a.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "plain").write_bytes("\nsans façon \n\xff\nthree".encode("latin-1").replace(b"\xe7", "ç".encode()))
    for name in ("a", "a.gz"):
        found, bad = read(tmp_path / name)
        assert (found, bad.count) == ([(1, "one"), (5, "two")], 1)
    found, bad = read(tmp_path / "plain")
    assert (found, bad.count) == ([(2, "sans façon"), (4, "three")], 1)
    (tmp_path / "empty").write_bytes(b"")
    assert read(tmp_path / "empty")[0] == []


async def test_each_review_is_a_line_of_json_and_the_summary_says_what_it_cost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with endpoint([(200, GOOD)]) as running:
        given = settings_for(running.base_url, model="extracted-by", prices={"extracted-by": {"input": 1, "output": 2}})
        await extract(of(TEXT, f"{TEXT} So cheap!"), given, Shown(as_json=True))
    first, second, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["line"], first["extractor"]) == (1, "openai/extracted-by+prompt-2")
    assert [pair["quote"] for pair in first["pairs"]] == ["sound is warm"]
    assert [pair["quote"] for pair in second["pairs"]] == ["sound is warm", "So cheap"]
    summary = last["summary"]
    assert (summary["reviews"], summary["pairs"]) == (2, 3)
    assert summary["dropped_quotes"] >= 1
    assert summary["usd"] >= 2 * (1000 * 1 + 100 * 2) / 1e6
    assert summary["usd_of_1000"] == pytest.approx(500 * summary["usd"])


async def test_the_offline_provider_shows_a_table_and_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    await extract(of("The sound is great! [/b]", "It came in a box."), ExtractorSettings(), Shown(as_json=False))
    out = capsys.readouterr().out
    assert "sound is great" in out
    assert "(no opinion)" in out
    assert "2 reviews, 1 pairs" in out


async def test_what_is_cut_short_says_what_was_paid(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.jobs.PAUSES", ())
    async with endpoint([(200, GOOD), (500, {})]) as running:
        given = settings_for(running.base_url, max_retries=0).model_copy(update={"batch_size": 1})
        with pytest.raises(Unavailable, match="server_error"):
            await extract(of(TEXT, "Another."), given, Shown(as_json=True))
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["line"] == 1
    assert last["summary"]["reviews"] == 1


def test_a_dry_run_asks_nobody_and_bounds_the_cost(
    general: Space, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ExtractorSettings()
    dry_run([TEXT, TEXT, "Another."], given, as_json=True)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["texts"] == 2, "no text is paid for twice"
    assert 0 < found["expected_usd"] < found["most_usd"]
    dry_run([TEXT], given, as_json=False)
    assert "1 different texts with gpt-4o-mini" in capsys.readouterr().out
    with pytest.raises(WrongSetting, match="has no price"):
        estimate([TEXT], OpenAISettings(model="of-our-own"), general)


def test_a_longer_file_never_costs_less(general: Space) -> None:
    costs = [estimate([f"{TEXT} {n}" for n in range(size)], OpenAISettings(), general).most_usd for size in range(4)]
    assert costs[0] == 0
    assert costs == sorted(costs)


def test_a_limit_that_is_no_number_of_reviews_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["extract", "file", "--limit", "-1"])
    with pytest.raises(SystemExit) as ended:
        arguments("extract", "What it does: this.", as_json="JSON")
    assert ended.value.code == 2
    assert "'-1' is no number of reviews" in capsys.readouterr().err
