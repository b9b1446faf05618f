"""Opinions of a file, to look at: `python -m services.extractor.extract_file`, which `finestream extract` starts.

The file is Amazon's JSON lines, gzip or not, or plain text with one review a line. Nothing is published; what was paid
for is kept as the service keeps it.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.extractor import costs, metrics
from services.extractor.estimate import EXPECTED, estimate
from services.extractor.extraction import Extracted
from services.extractor.main import parts_of
from services.extractor.settings import ExtractorSettings
from services.extractor.worker import Worker
from shared import logs, settings
from shared.experiments.readers import BadLines
from shared.jobs import ending, patiently
from shared.local.reviews import numbered_lines, read_reviews
from shared.service import space_of


@dataclass
class Summary:
    """What was found, and what the endpoint charged for it."""

    reviews: int = 0
    pairs: int = 0
    dropped_quotes: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    usd: float | None = None  # None: nothing was charged, or by a model without a price

    @property
    def usd_of_1000(self) -> float | None:
        return None if self.usd is None or not self.reviews else 1000 * self.usd / self.reviews

    def charged(self) -> None:
        """Read what this process has counted so far."""
        self.dropped_quotes = int(metrics.by_label(metrics.DROPPED, "reason").get("quote_not_found", 0))
        self.tokens, self.usd = costs.charged()

    def sentence(self) -> str:
        tokens = ", ".join(f"{count} {kind}" for kind, count in self.tokens.items()) or "none"
        cost = "none known" if self.usd is None else f"{self.usd:.6f} USD, {self.usd_of_1000 or 0:.4f} by 1,000 reviews"
        return (
            f"{self.reviews} reviews, {self.pairs} pairs, {self.dropped_quotes} dropped quotes; tokens: {tokens};"
            f" cost: {cost}"
        )

    def values(self) -> dict[str, Any]:
        return {
            "reviews": self.reviews, "pairs": self.pairs, "dropped_quotes": self.dropped_quotes, "tokens": self.tokens,
            "usd": self.usd, "usd_of_1000": self.usd_of_1000,
        }  # fmt: skip


class Shown:
    """Tables for a person, or a JSON object a line."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._console = Console()

    def batch(self, numbers: Sequence[int], found: Sequence[Extracted]) -> None:
        if self._json:
            for number, one in zip(numbers, found, strict=True):
                self._line({"line": number, "extractor": one.extractor, "failure": one.failure, "pairs": _pairs(one)})
        else:
            self._console.print(_table(numbers, found))

    def end(self, summary: Summary) -> None:
        if self._json:
            self._line({"summary": summary.values()})
        else:
            self._console.print(escape(summary.sentence()), highlight=False, soft_wrap=True)

    def _line(self, value: dict[str, Any]) -> None:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def texts_of(path: Path, bad: BadLines) -> Iterator[tuple[int, str]]:
    """Numbers of lines and their reviews; the first line decides of what kind all are."""
    first = next((line for _, line in numbered_lines(path)), b"")
    if first.lstrip().startswith(b"{"):
        for _, review in read_reviews(path, bad):
            if review.text.strip():
                yield int(review.review_id[1:]), review.text
        return
    for number, line in numbered_lines(path):
        try:
            yield number, line.decode().strip()
        except UnicodeDecodeError as error:
            bad(number, str(error))


async def extract(texts: Iterator[tuple[int, str]], chosen: ExtractorSettings, shown: Shown) -> None:
    """Raises WrongSetting, OSError for a file that cannot be read, Unavailable for a provider's silence."""
    worker, summary = Worker(chosen.torch_threads), Summary()
    try:
        parts = await worker.run(parts_of, chosen, worker)
        try:
            while batch := list(islice(texts, chosen.batch_size)):
                numbers = [number for number, _ in batch]
                found = await patiently(partial(parts.extraction.pairs, [text for _, text in batch]))
                summary.reviews += len(found)
                summary.pairs += sum(len(one.pairs) for one in found)
                shown.batch(numbers, found)
        finally:  # also of what is cut short: it was paid for
            await parts.close()
            summary.charged()
            shown.end(summary)
    finally:
        worker.stop()


def dry_run(texts: Iterable[str], chosen: ExtractorSettings, as_json: bool, share: float = 1.0) -> None:
    """What the texts would cost at this share of the price. Raises WrongSetting for a model without one."""
    found = estimate(texts, chosen.openai, space_of(chosen.space), share)
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        return
    Console().print(
        f"{found.texts} different texts with {chosen.openai.model}: about {found.expected_usd:.6f} USD ({EXPECTED}),"
        f" at most {found.most_usd:.6f} USD (every byte sent a token, the longest answers); embeddings not counted",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip


def _table(numbers: Sequence[int], found: Sequence[Extracted]) -> Table:
    drawn = Table()
    for name in ("line", "attribute", "opinion", "polarity", "quote"):
        drawn.add_column(name, justify="right" if name == "line" else "left")
    for number, one in zip(numbers, found, strict=True):
        if not one.pairs:
            drawn.add_row(str(number), "", "", "", f"({one.failure or 'no opinion'})")
        for pair in one.pairs:
            polarity = metrics.POLARITY_NAMES[pair.polarity]
            drawn.add_row(str(number), escape(pair.attribute), escape(pair.phrase), polarity, escape(pair.quote))
    return drawn


def _pairs(one: Extracted) -> list[dict[str, Any]]:
    return [
        {
            "attribute": pair.attribute, "opinion": pair.phrase, "polarity": metrics.POLARITY_NAMES[pair.polarity],
            "start": pair.start, "end": pair.end, "quote": pair.quote,
        }
        for pair in one.pairs
    ]  # fmt: skip


def arguments(prog: str, about: str, as_json: str) -> argparse.Namespace:
    """Of a job over a file of reviews; `as_json`: what --json gives."""
    parser = argparse.ArgumentParser(prog=prog, description=about.split(":")[0])
    parser.add_argument("file", type=Path, help="Amazon reviews, JSON lines, gzip or not; or a text a line")
    parser.add_argument("--limit", type=_limit, default=0, help="reviews at most; 0: all")
    parser.add_argument("--json", action="store_true", help=as_json)
    parser.add_argument("--dry-run", action="store_true", help="only what it would cost")
    return parser.parse_args()


def _limit(given: str) -> int:
    if not given.isdecimal():
        raise argparse.ArgumentTypeError(f"{given!r} is no number of reviews")
    return int(given)


def main() -> None:
    """Exit codes: 0 done; 1 the file cannot be read, or the provider does not answer; 2 a wrong setting."""
    given = arguments("services.extractor.extract_file", __doc__ or "", as_json="a JSON object a line")
    chosen = settings.read(ExtractorSettings)
    logs.configure("extractor", chosen.log_level)
    with ending():
        bad = BadLines(given.file)
        texts = islice(texts_of(given.file, bad), given.limit or None)
        if given.dry_run:
            dry_run((text for _, text in texts), chosen, given.json)
        else:
            asyncio.run(extract(texts, chosen, Shown(given.json)))
        bad.tell()


if __name__ == "__main__":
    main()
