"""`finestream evaluate-extraction`: figures of a provider on marked reviews, kept and drawn."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.extractor.evaluate_extraction import BEGIN, END, Row, Shares, drawn, files_of, kept, measure, with_means
from shared.service import WrongSetting
from tests.services.extractor.doubles import Scripted, answering, endpoint, settings_for

LINES = [
    "The battery dies fast but the screen is gorgeous .####[([1], [2, 3], 'NEG'), ([6], [8], 'POS')]####Electronics",
    "Great sound .####[([1], [0], 'POS')]####Electronics",
    "I bought it in May .####[]####Electronics",
]


def row(provider: str, file: str, f1: float = 0.5, of: str = "set") -> Row:
    shares = Shares(f1, f1, f1)
    return Row(
        provider, f"{provider}/model", of, file, 10, 20, 15, shares, shares, f1, f1, f1, 1.0, 0, 100.0, 5.0, "cpu",
        "2026-01-01",
    )  # fmt: skip


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.extractor.evaluate_extraction", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_provider_is_measured_and_its_figures_are_kept_and_drawn(tmp_path: Path) -> None:
    (tmp_path / "phones_dev.txt").write_text("\n".join(LINES), encoding="utf-8")
    (tmp_path / "phones_train.txt").write_text("never read", encoding="utf-8")
    figures, document = tmp_path / "figures.json", tmp_path / "document.md"
    document.write_text("# By hand\n", encoding="utf-8")
    done = run("--provider", "rules", tmp_path, "--json", figures, "--out", document)
    assert done.returncode == 0, done.stderr
    [figure] = msgspec.json.decode(figures.read_bytes(), type=list[Row])
    assert (figure.file, figure.reviews, figure.pairs) == ("phones_dev", 3, 3)
    assert figure.exact == Shares(1.0, 1.0, 1.0)
    assert (figure.polarity_accuracy, figure.grounded_share, figure.unusable) == (1.0, 1.0, 0)
    told = document.read_text(encoding="utf-8")
    assert told.startswith("# By hand\n")
    assert "| rules | phones_dev (3 pairs) | 1.000 / 1.000 / **1.000** |" in told
    assert "phones_dev" in done.stdout


async def test_an_llm_is_measured_by_the_words_that_it_names_and_paraphrases_are_not_exact(tmp_path: Path) -> None:
    def script(request: dict[str, Any]) -> Scripted:
        said = request["messages"][1]["content"]
        battery = ("performance", "dies fast", "negative", "battery dies fast", "battery")
        screen = ("appearance", "pretty", "positive", "screen is gorgeous", "screen")
        return 200, answering(*((battery, screen) if "battery" in said else ()))

    (tmp_path / "phones_dev.txt").write_text("\n".join([LINES[0], LINES[2]]), encoding="utf-8")
    async with endpoint(script) as running:
        [figure] = await measure(settings_for(running.base_url), files_of([tmp_path]))
    assert (figure.provider, figure.found, figure.grounded_share) == ("openai/gpt-4o-mini", 2, 1.0)
    assert figure.exact == Shares(0.5, 0.5, 0.5)
    assert figure.lenient == Shares(1.0, 1.0, 1.0)
    assert (figure.aspect_f1, figure.opinion_f1, figure.polarity_accuracy) == (1.0, 0.5, 1.0)


def test_a_sample_of_a_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "phones_dev.txt").write_text("\n".join(LINES), encoding="utf-8")
    done = run("--provider", "rules", tmp_path, "--limit", "2")
    assert done.returncode == 0, done.stderr
    assert "| rules | phones_dev (2 of 3 reviews, 3 pairs) |" in done.stdout


def test_files_that_are_not_there_or_not_marked_are_wrong_settings(tmp_path: Path) -> None:
    for given, says in ((tmp_path, "no marked reviews"), (tmp_path / "none.txt", "none.txt")):
        done = run("--provider", "rules", given)
        assert done.returncode == 2
        assert says in done.stderr.splitlines()[-1]
    (tmp_path / "x_dev.txt").write_text("Good .####[([5], [0], 'POS')]\n", encoding="utf-8")
    done = run("--provider", "rules", tmp_path)
    assert done.returncode == 2
    assert "x_dev.txt:1: " in done.stderr.splitlines()[-1]


def test_rows_of_others_stay_and_own_ones_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    kept([row("rules", "a"), row("rules", "b")], path)
    whole = kept([row("rules", "a", 0.9), row("openai", "a", 0.7)], path)
    assert [(one.provider, one.file, one.exact.f1) for one in whole] == [
        ("openai", "a", 0.7), ("rules", "a", 0.9), ("rules", "b", 0.5),
    ]  # fmt: skip
    assert msgspec.json.decode(path.read_bytes(), type=list[Row]) == whole
    path.write_text("[{}]")
    with pytest.raises(WrongSetting, match="no figures"):
        kept([row("rules", "a")], path)


def test_files_of_a_set_have_a_mean_and_a_set_of_one_has_none() -> None:
    rows = [row("rules", "a", 0.4), row("rules", "b", 0.8), row("rules", "c", 0.1, of="other")]
    told = with_means(rows)
    assert [one.file for one in told] == ["a", "b", "mean of set", "c"]
    assert told[2].exact.f1 == pytest.approx(0.6)
    assert (told[2].reviews, told[2].pairs, told[2].reviews_per_second) == (20, 40, pytest.approx(100.0))


def test_figures_are_drawn_where_they_were_and_nothing_else_changes() -> None:
    before = f"# By hand\n\n{BEGIN}\nold\n{END}\n\n## More\n"
    after = drawn([row("rules", "a")], before)
    assert "old" not in after
    assert after.startswith(f"# By hand\n\n{BEGIN}\n")
    assert after.endswith("## More\n")
    assert drawn([row("rules", "a")], after) == after
