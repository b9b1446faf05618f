import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from services.extractor import backfill as job
from services.extractor.backfill import NotEmpty, backfill
from services.extractor.embeddings import LocalEmbeddings
from services.extractor.extraction import Extraction
from services.extractor.findings import Answered
from services.extractor.main import Parts
from services.extractor.settings import ExtractorSettings
from services.extractor.vectors import Vectors
from shared import archive, jobs, topics
from shared.errors import Unavailable
from shared.events import EARLIEST, Event, Interaction, Item, ItemSemantics, Opinions
from shared.models.dataset import read_log
from shared.space import Space
from tests.services.extractor.doubles import Saying

TEXT = "The battery dies fast but the screen is gorgeous."
ALL = (topics.INTERACTIONS, topics.OPINIONS, topics.ITEMS, topics.ITEM_SEMANTICS)


class Flaky(Saying):
    """Does not answer the first times."""

    def __init__(self, failures: int) -> None:
        super().__init__({})
        self.failures = failures

    async def find(self, texts: Sequence[str]) -> list[Answered]:
        if self.failures:
            self.failures -= 1
            raise Unavailable("the provider is away")
        return await super().find(texts)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, general: Space, offline: Extraction, vectors: Vectors,
          local: LocalEmbeddings) -> Parts:  # fmt: skip
    made = Parts(general, offline, vectors, Saying({}), local)
    monkeypatch.setattr(job, "parts_of", lambda settings, worker: made)
    monkeypatch.setattr(jobs, "PAUSES", (0.0, 0.0))
    return made


def lines(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def review(n: int, text: str = TEXT, **more: Any) -> dict[str, Any]:
    return {"reviewerID": f"u{n % 3}", "asin": f"i{n}", "unixReviewTime": 1.4e9 + n, "reviewText": text, **more}


def events_in(url: Path) -> list[Event]:
    return [event for event, _ in archive.events_of(str(url), ALL)]


def of(kind: type, found: Sequence[Event]) -> list[Any]:
    return [event for event in found if isinstance(event, kind)]


async def test_a_file_becomes_the_event_log_that_the_service_would_have_written(parts: Parts, tmp_path: Path) -> None:
    reviews = lines(tmp_path / "reviews", review(1, overall=4.0), review(2, "It is a thing."), "no json", review(4, ""))
    items = lines(tmp_path / "items", {"asin": "i1", "title": "A phone"}, {"asin": "i9"})
    await backfill(reviews, items, str(tmp_path / "log"), ExtractorSettings())
    found = events_in(tmp_path / "log")
    assert [e.event_id for e in of(Interaction, found)] == ["i1", "i2", "i4"], "an empty review is an interaction"
    said, empty = of(Opinions, found)
    assert [pair.quote for pair in said.pairs] == ["battery dies fast", "screen is gorgeous"]
    assert (said.review_id, said.rating, said.space, len(said.vector)) == ("r1", 4.0, parts.space.name, 384)
    assert (empty.review_id, empty.pairs) == ("r2", [])
    assert [(item.item_id, item.title) for item in of(Item, found)] == [("i1", "A phone"), ("i9", "")]
    [semantics] = of(ItemSemantics, found)
    assert (semantics.item_id, semantics.ts, len(semantics.vector)) == ("i1", EARLIEST, 384)
    log = read_log(found, parts.space.name)
    assert log.interactions == 3
    assert log.by_item.keys() == {"i1", "i2", "i4", "i9"}


async def test_what_is_passed_over_is_counted_and_told(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = (review(1, asin="a\u0001b"), review(2, unixReviewTime=3), "no json", review(4, ""))
    await backfill(lines(tmp_path / "reviews", *bad), None, str(tmp_path / "log"), ExtractorSettings())
    told = capsys.readouterr()
    assert re.search(r"lines\W+4\b", told.out + told.err)
    assert len(events_in(tmp_path / "log")) == 1
    assert archive.offsets(str(tmp_path / "log")) == {topics.INTERACTIONS: {0: 1}}, "what is refused is not written"


async def test_a_log_of_several_files_is_read_in_the_order_of_the_lines(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "FILE_ROWS", 4)
    reviews = lines(tmp_path / "reviews", *(review(n) for n in range(1, 12)))
    await backfill(reviews, None, str(tmp_path / "log"), ExtractorSettings(batch_size=3))
    found = events_in(tmp_path / "log")
    assert len(list((tmp_path / "log").glob("topic=interactions/*/*.parquet"))) == 3
    assert [e.event_id for e in of(Interaction, found)] == [f"i{n}" for n in range(1, 12)]
    assert [e.review_id for e in of(Opinions, found)] == [f"r{n}" for n in range(1, 12)]
    assert archive.offsets(str(tmp_path / "log")) == {topics.INTERACTIONS: {0: 11}, topics.OPINIONS: {0: 11}}


async def test_a_job_that_was_cut_off_leaves_no_log(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "FILE_ROWS", 2)
    reviews = lines(tmp_path / "reviews", *(review(n) for n in range(1, 6)))

    async def cut(call: Any) -> None:
        await call()
        [batch] = call.args
        if batch[-1].event.review_id == "r4":
            raise KeyboardInterrupt

    monkeypatch.setattr(job, "patiently", cut)
    with pytest.raises(KeyboardInterrupt):
        await backfill(reviews, None, str(tmp_path / "log"), ExtractorSettings(batch_size=2))
    assert list((tmp_path / "log").glob("topic=opinions.*/*/*.parquet")), "it had written already"
    assert events_in(tmp_path / "log") == []


async def test_a_log_that_is_there_already_is_not_written_into(parts: Parts, tmp_path: Path) -> None:
    reviews = lines(tmp_path / "reviews", review(1))
    await backfill(reviews, None, str(tmp_path / "log"), ExtractorSettings())
    with pytest.raises(NotEmpty, match="already"):
        await backfill(reviews, None, str(tmp_path / "log"), ExtractorSettings())
    assert len(events_in(tmp_path / "log")) == 2


@pytest.mark.parametrize(("failures", "succeeds"), [(2, True), (3, False)])
async def test_a_provider_that_does_not_answer_is_asked_again_but_not_for_ever(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extraction_by: Any, failures: int, succeeds: bool
) -> None:
    flaky = Parts(parts.space, extraction_by(Flaky(failures)), parts.vectors, parts.provider, parts.embeddings)
    monkeypatch.setattr(job, "parts_of", lambda settings, worker: flaky)
    run = backfill(lines(tmp_path / "reviews", review(1)), None, str(tmp_path / "log"), ExtractorSettings())
    if succeeds:
        await run
    else:
        with pytest.raises(Unavailable, match="away"):
            await run
    assert len(of(Opinions, events_in(tmp_path / "log"))) == succeeds


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--reviews", "nowhere.json"], 1, "nowhere.json"),
        (["--reviews", "{reviews}", "--space", "no-such-space"], 2, "no-such-space"),
        ([], 2, "--reviews"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest,
    arguments: list[str], code: int, told: str,
) -> None:  # fmt: skip
    reviews = lines(tmp_path / "reviews", review(1))
    if code == 1:
        request.getfixturevalue("parts")
    given = [argument.format(reviews=reviews) for argument in arguments]
    monkeypatch.setattr(job.logs, "configure", lambda *_: None)  # or the tests after this one would log otherwise
    monkeypatch.setattr("sys.argv", ["backfill", "--out", str(tmp_path / "log"), *given])
    with pytest.raises(SystemExit) as ended:
        job.main()
    assert ended.value.code == code
    assert told in capsys.readouterr().err
    assert not list(tmp_path.glob("log/manifest*"))
