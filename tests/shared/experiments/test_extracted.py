"""The job is played by tests/shared/experiments/extraction_job.py, which takes no models; see test_backfill for it."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from services.extractor.settings import ExtractorSettings
from shared.experiments import extracted
from shared.experiments.extracted import ExtractionFailed, Extractor

SPACE = "minilm-general-v1"


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extracted, "JOB", "tests.shared.experiments.extraction_job")


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.json"
    path.write_text("well")
    return path


def test_a_file_is_extracted_once_and_again_when_anything_that_it_depends_on_changes(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, items = tmp_path / "cache", tmp_path / "items.json"
    first = extracted.extracted(reviews, None, SPACE, cache)
    assert (first / "whole").read_text() == "well"
    (first / "whole").write_text("kept")
    copy = tmp_path / "copy.json"
    copy.write_text("well")
    assert extracted.extracted(copy, None, SPACE, cache) == first, "the bytes count, not the name"
    assert (first / "whole").read_text() == "kept", "the job has not run again"
    items.write_text("told")
    found = {first, extracted.extracted(reviews, items, SPACE, cache), extracted.extracted(reviews, None, "x", cache)}
    assert extracted.extracted(reviews, None, SPACE, cache, Extractor().provider) == first
    found.add(extracted.extracted(reviews, None, SPACE, cache, "another"))
    assert {(folder / "by").read_text() for folder in found} == {Extractor().provider, "another"}
    monkeypatch.setenv("FINESTREAM_EXTRACTOR_VERSION", "2")
    found.add(extracted.extracted(reviews, None, SPACE, cache))
    reviews.write_text("well then")
    found.add(extracted.extracted(reviews, None, SPACE, cache))
    weights = tmp_path / "weights.safetensors"
    monkeypatch.setattr(extracted, "_learnt", lambda: [weights])
    for learnt in ("a", "b"):
        weights.write_text(learnt)
        found.add(extracted.extracted(reviews, None, SPACE, cache))
    assert len(found) == 8


def test_the_extractors_weights_and_prompts_are_among_what_a_log_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extracted, "JOB", "services.extractor.backfill")
    assert {"weights.safetensors", "prompt.txt"} <= {path.name for path in extracted._learnt()}


@pytest.mark.parametrize("end", ["fail", "kill"])
def test_a_job_that_did_not_end_well_leaves_nothing_that_looks_complete(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("EXTRACTION_JOB_END", end)
    with pytest.raises(ExtractionFailed, match=r"reviews\.json"):
        extracted.extracted(reviews, None, SPACE, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*.unfinished/half")), "it had begun"
    assert not [path for path in (tmp_path / "cache").glob("extracted-*") if not path.suffix]
    monkeypatch.delenv("EXTRACTION_JOB_END")
    folder = extracted.extracted(reviews, None, SPACE, tmp_path / "cache")
    assert {path.name for path in folder.iterdir()} == {"whole", "by"}


def test_of_two_that_want_the_same_one_waits_for_the_other(reviews: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    found: list[Path] = []
    reviews.write_text(f"count in {runs}")
    wanting = [
        threading.Thread(target=lambda: found.append(extracted.extracted(reviews, None, SPACE, tmp_path / "cache")))
        for _ in range(3)
    ]
    for thread in wanting:
        thread.start()
    for thread in wanting:
        thread.join(60)
    assert len(found) == 3
    assert len(set(found)) == 1
    assert runs.read_text() == "ran\n"


def test_a_job_whose_starter_was_killed_is_waited_for(reviews: Path, tmp_path: Path) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    reviews.write_text(f"count in {runs} and wait for {go}")
    code = (
        "import os, sys, threading, pathlib, time\n"
        "from shared.experiments import extracted\n"
        "extracted.JOB = 'tests.shared.experiments.extraction_job'\n"
        "def end():\n"
        f"    while not pathlib.Path({str(runs)!r}).exists(): time.sleep(0.01)\n"
        "    os._exit(9)\n"
        "threading.Thread(target=end).start()\n"
        f"extracted.extracted(pathlib.Path({str(reviews)!r}), None, {SPACE!r}, pathlib.Path({str(tmp_path)!r}) / 'cache')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 9
    second = threading.Thread(target=lambda: extracted.extracted(reviews, None, SPACE, tmp_path / "cache"))
    second.start()
    second.join(0.7)  # several times what a job needs
    assert runs.read_text() == "ran\n", "the second waits while the first one's job still writes"
    go.touch()
    second.join(60)
    assert not second.is_alive()
    assert {path.name for path in (tmp_path / "cache").glob("extracted-*/*")} == {"whole", "by"}


def test_what_is_taken_for_the_extractors_defaults_are_its_defaults() -> None:
    chosen, ours = ExtractorSettings(), Extractor()
    assert (chosen.provider, chosen.embeddings, chosen.version) == (ours.provider, ours.embeddings, ours.version)
