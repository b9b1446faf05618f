"""Amazon-format lines: one review and one interaction each, whatever else lies in the file."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import events, topics
from shared.events import InvalidEvent, Item
from shared.local import reviews

REAL = Path(__file__).parents[4] / "shared" / "data" / "amazon2014_musical_instruments"
META = Path(__file__).parents[4] / "shared" / "data" / "amazon2018_gift_cards"


def line(**changes: Any) -> dict[str, Any]:
    known = {
        "reviewerID": "A1", "asin": "B1", "unixReviewTime": 1_393_545_600, "reviewText": "Good tone.",
        "summary": "good", "overall": 5.0, "helpful": [0, 0],
    }  # fmt: skip
    return known | changes


def written(folder: Path, *lines: object, packed: bool = False) -> Path:
    text = "".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in lines)
    path = folder / "reviews.json"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


class Bad:
    def __init__(self) -> None:
        self.lines: list[int] = []

    def __call__(self, number: int, message: str) -> None:
        assert message
        self.lines.append(number)


@pytest.mark.parametrize("packed", [True, False])
def test_a_line_is_a_review_and_an_interaction_with_ids_from_its_number(tmp_path: Path, packed: bool) -> None:
    bad = Bad()
    found = list(reviews.read_reviews(written(tmp_path, line(), line(asin="B2"), packed=packed), bad))
    assert [(i.event_id, i.item_id, r.review_id, r.item_id) for i, r in found] == [
        ("i1", "B1", "r1", "B1"), ("i2", "B2", "r2", "B2"),
    ]  # fmt: skip
    interaction, review = found[0]
    assert (interaction.user_id, interaction.ts) == (review.user_id, review.ts) == ("A1", 1_393_545_600.0)
    assert (review.text, review.title, review.rating) == ("Good tone.", "good", 5.0)
    assert bad.lines == []


@pytest.mark.parametrize(
    "broken",
    ["{not json", "[]", json.dumps(line(reviewerID=None)), json.dumps({"asin": "B1"}), json.dumps(line(overall=9))],
)
def test_a_line_that_is_no_review_is_told_and_the_reading_goes_on(tmp_path: Path, broken: str) -> None:
    bad = Bad()
    found = list(reviews.read_reviews(written(tmp_path, line(), broken, "", line(asin="B9")), bad))
    assert [review.review_id for _, review in found] == ["r1", "r4"]
    assert bad.lines == [2]


def test_an_empty_text_is_passed_on_for_the_system_to_refuse(tmp_path: Path) -> None:
    ((_, review),) = reviews.read_reviews(written(tmp_path, line(reviewText="")), Bad())
    with pytest.raises(InvalidEvent) as refused:
        events.decode(topics.REVIEWS, events.encode(review))
    assert refused.value.reason == "empty_text"


def test_a_line_without_end_is_cut_and_the_next_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews, "MAX_LINE_BYTES", 1000)
    bad = Bad()
    path = written(tmp_path, line(), line(reviewText="x" * 5000), line(asin="B3"))
    assert [review.review_id for _, review in reviews.read_reviews(path, bad)] == ["r1", "r3"]
    assert bad.lines == [2]


def test_a_damaged_gzip_file_is_told_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, *(line(asin=f"B{n}", reviewText=str(n) * 50) for n in range(2000)), packed=True)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(OSError, match=r"is damaged after line \d+"):
        list(reviews.read_reviews(path, Bad()))


def test_metadata_of_both_releases_becomes_items_that_are_valid(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"asin": "B1", "title": "Strings", "description": ["Warm", "tone"], "category": ["Music", "Strings"]},
        {"asin": "B2", "description": "Bright", "categories": [["Music", "Picks"]], "brand": "D", "feature": ["Thin"]},
        {"asin": "B3", "title": "t" * 5000, "category": [str(n) for n in range(100)] + ["", "x" * 999]},
    )
    bad = Bad()
    first, second, third = reviews.read_items(path, bad)
    assert (first.title, first.description, first.categories) == ("Strings", "Warm\ntone", ["Music", "Strings"])
    assert (second.description, second.categories, second.brand) == ("Bright\nThin", ["Music", "Picks"], "D")
    assert len(third.categories) == events.MAX_CATEGORIES
    assert all(events.decode(topics.ITEMS, events.encode(item)) == item for item in (first, second, third))
    assert bad.lines == []


@given(st.lists(st.one_of(st.text(), st.binary().map(repr), st.just(json.dumps(line()))), max_size=20))
@settings(max_examples=60, deadline=None)
def test_every_line_is_read_or_told_never_both(lines: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reviews.json"
        raw = [text.encode("utf-8", "surrogatepass").replace(b"\n", b" ") for text in lines]
        path.write_bytes(b"\n".join(raw))
        bad = Bad()
        read = [int(review.review_id[1:]) for _, review in reviews.read_reviews(path, bad)]
        kept = {number for number, text in enumerate(raw, 1) if text.strip()}
        assert sorted(read + bad.lines) == sorted(kept)
        assert reviews.count_lines(path) == len(kept)


@pytest.mark.skipif(not REAL.exists(), reason="the real reviews are not there")
def test_the_real_musical_instruments_are_10261_reviews_of_which_7_are_empty() -> None:
    bad = Bad()
    found = list(reviews.read_reviews(REAL / "reviews_Musical_Instruments_5.json.gz", bad))
    assert len(found) == 10_261
    assert sum(not review.text.strip() for _, review in found) == 7
    assert len({i.user_id for i, _ in found}) == 1429
    assert len({i.item_id for i, _ in found}) == 900
    assert bad.lines == []


@pytest.mark.skipif(not META.exists(), reason="the real metadata are not there")
def test_the_real_gift_card_metadata_are_1547_items() -> None:
    items: list[Item] = list(reviews.read_items(META / "meta_Gift_Cards.json.gz", Bad()))
    assert len({item.item_id for item in items}) == 1547
    assert all(events.decode(topics.ITEMS, events.encode(item)) == item for item in items)
