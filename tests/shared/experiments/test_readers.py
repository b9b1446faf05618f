import gzip
from pathlib import Path

import pytest

from shared.events import EARLIEST, MAX_ID_CHARS, Interaction, Item
from shared.experiments.readers import BadLines, has_times, read_amazon, read_interactions, read_sequences


class Bad:
    """Keeps the numbers of the lines that it is told."""

    def __init__(self) -> None:
        self.lines: list[int] = []

    def __call__(self, number: int, why: str) -> None:
        assert why
        self.lines.append(number)


@pytest.fixture
def bad() -> Bad:
    return Bad()


def write(path: Path, text: str | bytes, packed: bool = False) -> Path:
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_lines_without_times_keep_the_order_of_the_file(tmp_path: Path, bad: Bad, packed: bool) -> None:
    found = list(read_interactions(write(tmp_path / "i", "b x\na y\nb x\n", packed), bad))
    assert [(e.user_id, e.item_id) for e in found] == [("b", "x"), ("a", "y"), ("b", "x")]
    assert EARLIEST < found[0].ts < found[1].ts < found[2].ts
    assert len({e.event_id for e in found}) == 3, "a pair that occurs twice is two events"
    assert not bad.lines


def test_a_third_field_is_the_time(tmp_path: Path, bad: Bad) -> None:
    path = write(tmp_path / "i", "u\tx\t1400000000\nu y 1.3e9\n")
    assert has_times(path)
    assert [e.ts for e in read_interactions(path, bad)] == [1.4e9, 1.3e9]
    assert not bad.lines


@pytest.mark.parametrize(
    "line", [b"u", b"u x", b"u x 1400000000 4", b"u x soon", b"u x nan", b"u x 1400000000000", b"u x 3",
             b"u \xff 1400000000", b"u " + b"x" * (MAX_ID_CHARS + 1) + b" 1400000000"],
)  # fmt: skip
def test_a_bad_line_is_told_and_passed_over(tmp_path: Path, bad: Bad, line: bytes) -> None:
    path = write(tmp_path / "i", b"u x 1400000000\n" + line + b"\n\nv y 1500000000\n")
    assert [e.event_id for e in read_interactions(path, bad)] == ["i1", "i4"]
    assert bad.lines == [2], "and an empty line is no line"


def test_a_sequence_line_is_one_users_events_oldest_first(tmp_path: Path, bad: Bad) -> None:
    found = list(read_sequences(write(tmp_path / "s", "u b a b\nlonely\nv c\n", packed=True), bad))
    assert [(e.user_id, e.item_id) for e in found] == [("u", "b"), ("u", "a"), ("u", "b"), ("v", "c")]
    assert [e.ts for e in found] == sorted({e.ts for e in found})
    assert len({e.event_id for e in found}) == 4
    assert bad.lines == [2]


def test_reading_a_file_twice_yields_the_same_facts(tmp_path: Path, bad: Bad) -> None:
    path = write(tmp_path / "s", "u b a\nv c\n")
    assert list(read_sequences(path, bad)) == list(read_sequences(path, bad))


def test_amazon_lines_are_interactions_and_metadata_items(tmp_path: Path, bad: Bad) -> None:
    reviews = write(
        tmp_path / "reviews",
        '{"reviewerID": "u", "asin": "x", "unixReviewTime": 1400000000, "reviewText": ""}\nno json\n',
    )
    items, bad_item = write(tmp_path / "meta", '{"asin": "x", "title": "A drum"}\n{}\n'), Bad()
    told, item = read_amazon(reviews, items, bad, bad_item)
    assert isinstance(told, Interaction)
    assert (told.user_id, told.item_id, told.ts) == ("u", "x", 1.4e9)
    assert isinstance(item, Item)
    assert item.title == "A drum"
    assert (bad.lines, bad_item.lines) == ([2], [2])


def test_an_empty_file_holds_nothing(tmp_path: Path, bad: Bad) -> None:
    path = write(tmp_path / "i", "")
    assert not has_times(path)
    assert list(read_interactions(path, bad)) == []


def test_bad_lines_are_counted_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    bad = BadLines(Path("folder/file.txt"))
    bad.tell()
    assert not "".join(capsys.readouterr())
    bad(3, "no user")
    bad(7, "no item")
    bad.tell()
    told = "".join(capsys.readouterr())
    assert bad.count == 2
    assert told.count("file.txt") == 1
    assert "line 3: no user" in told
