"""services/extractor/gold.py: both formats of marked reviews, and lines that are of neither."""

import gzip
from pathlib import Path

import pytest

from services.extractor import gold
from services.extractor.gold import BadGold, GoldFile

FIT = "Fit and style is very good . Good heel height and comfortable ."


def read(tmp_path: Path, *lines: str) -> GoldFile:
    path = tmp_path / "shoes_dev.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return gold.read(path)


def quoted(file: GoldFile, number: int = 0) -> list[tuple[str | None, str, int]]:
    review = file.reviews[number]
    return [
        (pair.aspect and review.text[slice(*pair.aspect)], review.text[slice(*pair.opinion)], pair.polarity)
        for pair in review.pairs
    ]


def test_a_span_is_told_by_its_first_and_last_word_and_minus_one_names_no_aspect(tmp_path: Path) -> None:
    file = read(tmp_path, f"{FIT}####[([0], [4, 5], 'POS'), ([8, 9], [7], 'NEU'), ([-1], [11], 'NEG')]####Shoes")
    assert quoted(file) == [("Fit", "very good", 1), ("heel height", "Good", 0), (None, "comfortable", -1)]
    assert file.name == "shoes_dev"
    assert file.names_implicit
    assert file.pairs == 3


def test_a_span_is_told_by_all_of_its_words_where_there_is_no_domain(tmp_path: Path) -> None:
    file = read(tmp_path, "The really good battery life####[([3, 4], [1, 2], 'POS')]", "Fine .####[]")
    assert quoted(file) == [("battery life", "really good", 1)]
    assert not file.names_implicit
    assert [len(review.pairs) for review in file.reviews] == [1, 0]


def test_words_are_what_single_spaces_part(tmp_path: Path) -> None:
    [review] = read(tmp_path, "Don 't  buy####[]").reviews
    assert [review.text[slice(*word)] for word in review.words] == ["Don", "'t", "", "buy"]


@pytest.mark.parametrize(("limit", "texts"), [(0, "abcde"), (9, "abcde"), (5, "abcde"), (2, "ac"), (1, "a")])
def test_a_sample_is_spread_over_the_file(tmp_path: Path, limit: int, texts: str) -> None:
    file = read(tmp_path, *(f"{text}####[]" for text in "abcde"))
    assert [review.text for review in file.sample(limit).reviews] == list(texts)


def test_a_packed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "shoes_train.txt.gz"
    path.write_bytes(gzip.compress(f"{FIT}####[([0], [4, 5], 'POS')]####Shoes\n\n".encode()))
    assert quoted(gold.read(path)) == [("Fit", "very good", 1)]


@pytest.mark.parametrize(
    "line",
    [
        "Good .",
        "Good .####[([0], [9], 'POS')]",
        "Good .####[([0], [-1], 'POS')]",
        "Good .####[([0], [0], 'FINE')]",
        "Good .####[([0], [0])]",
        "Good .####__import__('os').getcwd()",
        "Good .####[",
    ],
)
def test_a_line_of_no_such_format_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(BadGold, match=r"shoes_dev\.txt:2: "):
        read(tmp_path, "Good .####[]", line)
