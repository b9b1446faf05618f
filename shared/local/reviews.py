"""Reads reviews and item metadata as Amazon publishes them: JSON lines, gzip or not, one line at a time.

Every line of a review file is a review and an interaction. Ids come from the line number, so reading a file
twice yields the same facts. Lines that are no review at all (not JSON, no user) are told to `on_bad`; a review
that is merely invalid (an empty text) is passed on as it is: refusing it is the system's work.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Annotated, Final, cast

import msgspec
from msgspec import Struct

from shared import events
from shared.events import Interaction, Item, Review

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
GZIP_MAGIC: Final = b"\x1f\x8b"

OnBad = Callable[[int, str], None]  # line number from 1, what is wrong with it


class ReviewLine(Struct, frozen=True):
    """A line of a review file; what we do not use is passed over."""

    reviewerID: str  # noqa: N815  # the file's own name
    asin: str
    unixReviewTime: float  # noqa: N815
    reviewText: str = ""  # noqa: N815
    summary: str = ""
    overall: Annotated[float, msgspec.Meta(ge=0, le=5)] = 0.0


class MetaLine(Struct, frozen=True):
    """A line of a metadata file. Fields are of several shapes from release to release."""

    asin: str
    title: str = ""
    brand: str = ""
    description: str | list[str] = ""
    category: list[str] = msgspec.field(default_factory=list)
    categories: list[list[str]] = msgspec.field(default_factory=list)
    feature: list[str] = msgspec.field(default_factory=list)


_REVIEW: Final = msgspec.json.Decoder(ReviewLine, strict=False)
_META: Final = msgspec.json.Decoder(MetaLine, strict=False)


def read_reviews(path: Path, on_bad: OnBad) -> Iterator[tuple[Interaction, Review]]:
    """Each line's interaction and review. Raises OSError where the file cannot be read."""
    for number, line in numbered_lines(path):
        try:
            yield _events_of(number, _REVIEW.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            on_bad(number, str(error))


def read_items(path: Path, on_bad: OnBad) -> Iterator[Item]:
    """Each line's item. Its time is the earliest there is: metadata has none, and any newer fact then wins."""
    for number, line in numbered_lines(path):
        try:
            yield _item_of(_META.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            on_bad(number, str(error))


def count_lines(path: Path) -> int:
    """How many lines the readers will see, for a progress bar."""
    return sum(1 for _ in numbered_lines(path))


def _events_of(number: int, line: ReviewLine) -> tuple[Interaction, Review]:
    interaction = Interaction(
        event_id=f"i{number}", user_id=line.reviewerID, item_id=line.asin, ts=line.unixReviewTime, kind="review"
    )
    review = Review(
        review_id=f"r{number}", user_id=line.reviewerID, item_id=line.asin, ts=line.unixReviewTime,
        text=line.reviewText, title=line.summary, rating=line.overall,
    )  # fmt: skip
    return interaction, review


def _item_of(line: MetaLine) -> Item:
    description = line.description if isinstance(line.description, str) else "\n".join(line.description)
    names = [*line.category, *(name for path in line.categories for name in path)]
    categories = [name for name in dict.fromkeys(names) if 0 < len(name) <= events.MAX_ID_CHARS]
    return Item(
        item_id=line.asin, ts=events.EARLIEST, title=line.title[: events.MAX_TITLE_CHARS],
        description="\n".join(text for text in (description, *line.feature) if text),
        brand=line.brand[: events.MAX_TITLE_CHARS], categories=categories[: events.MAX_CATEGORIES],
    )  # fmt: skip


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank; one longer than MAX_LINE_BYTES is cut, and then no JSON."""
    with open_file(path) as file:
        number = 0
        try:
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if not line.endswith(b"\n"):
                    _skip_rest_of_line(file)
                if line.strip():
                    yield number, line
        except (EOFError, zlib.error) as error:
            raise OSError(f"{path} is damaged after line {number}: {error}") from error


def _skip_rest_of_line(file: IO[bytes]) -> None:
    while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        continue


def open_file(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked where they are gzip. Raises OSError."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb")
