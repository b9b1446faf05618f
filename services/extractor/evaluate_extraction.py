"""Measures a provider on marked reviews: `finestream evaluate-extraction --provider spans DATA...`.

Prints a table, and with --json keeps the figures in a file, from which --out draws the document: rows of other
providers and files stay as they are. Nothing is tuned here, and no provider is told what is marked.
"""

import argparse
import asyncio
import datetime as dt
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, Self

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from services.extractor import gold
from services.extractor.evaluation import Counted, Scores, scores_of
from services.extractor.findings import Finding, NothingUsable, Provider, answers_of
from services.extractor.gold import BadGold, GoldFile
from services.extractor.providers import provider_of
from services.extractor.settings import PROVIDERS, ExtractorSettings
from services.extractor.worker import Worker
from shared import logs
from shared.hardware import cpu
from shared.jobs import ending
from shared.service import WrongSetting, space_of
from shared.settings import read

BEGIN: Final = "<!-- figures: written by `finestream evaluate-extraction` -->"
END: Final = "<!-- end of the figures -->"
COLUMNS: Final = (
    "provider", "file", "exact P / R / F1", "lenient P / R / F1", "aspect F1", "opinion F1", "polarity", "grounded",
    "unusable", "reviews/s", "CPU ms a review",
)  # fmt: skip


class Shares(Struct):
    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, counted: Counted) -> Self:
        return cls(round(counted.precision, 4), round(counted.recall, 4), round(counted.f1, 4))

    def __str__(self) -> str:
        return f"{self.precision:.3f} / {self.recall:.3f} / **{self.f1:.3f}**"


class Row(Struct):
    """Figures of one provider on one file; shares and F1 from 0 to 1."""

    provider: str
    name: str  # of who found: model, versions
    of: str  # the set that the file belongs to
    file: str
    reviews: int
    pairs: int  # marked
    found: int  # that were compared
    exact: Shares  # of pairs
    lenient: Shares
    aspect_f1: float
    opinion_f1: float
    polarity_accuracy: float
    grounded_share: float
    unusable: int  # texts whose answer gave nothing
    reviews_per_second: float
    cpu_ms_per_review: float  # of this process
    hardware: str
    date: str
    left_out: int = 0  # reviews of the file that were not asked about


def files_of(paths: Sequence[Path]) -> list[GoldFile]:
    """Files as they are; of a folder the ones for development, which nothing is trained on. Raises WrongSetting."""
    found = [file for path in paths for file in (sorted(path.glob("*dev*")) if path.is_dir() else [path])]
    if not found:
        raise WrongSetting(
            f"no marked reviews in {', '.join(map(str, paths))}: name files, or folders with *dev* files"
        )
    try:
        return [gold.read(file) for file in found]
    except (OSError, BadGold) as error:
        raise WrongSetting(str(error)) from None


async def measure(settings: ExtractorSettings, files: Sequence[GoldFile], limit: int = 0) -> list[Row]:
    """Of each file at most so many reviews, 0: all. Raises WrongSetting, Unavailable."""
    worker = Worker(settings.torch_threads)
    try:
        provider = await worker.run(provider_of, settings, space_of(settings.space), worker)
        try:
            await _found(provider, [file.reviews[0].text for file in files])  # what is loaded once is not measured
            return [await _row(_label(settings), provider, file, limit) for file in files]
        finally:
            await provider.close()
    finally:
        worker.stop()


def _label(settings: ExtractorSettings) -> str:
    """What the rows are of: an LLM's are of its model too."""
    return f"openai/{settings.openai.model}" if settings.provider == "openai" else settings.provider


async def _row(label: str, provider: Provider, whole: GoldFile, limit: int) -> Row:
    file = whole.sample(limit)
    started, used = time.perf_counter(), time.process_time()
    findings, unusable = await _found(provider, [review.text for review in file.reviews])
    seconds, used = time.perf_counter() - started, time.process_time() - used
    row = _told(label, provider.name, file, scores_of(file, findings), unusable, seconds, used)
    return replace(row, left_out=len(whole.reviews) - len(file.reviews))


async def _found(provider: Provider, texts: Sequence[str]) -> tuple[list[list[Finding]], int]:
    """Findings of each text, and how many answers were of no use."""
    found: list[list[Finding]] = []
    unusable = 0
    async for answer in answers_of(provider, texts):
        unusable += isinstance(answer, NothingUsable)
        found.append([] if isinstance(answer, NothingUsable) else answer.findings)
    return found, unusable


def _told(label: str, name: str, file: GoldFile, scores: Scores, unusable: int, seconds: float, used: float) -> Row:
    reviews = len(file.reviews)
    return Row(
        label, name, file.of, file.name, reviews, file.pairs, scores.exact.found,
        Shares.of(scores.exact), Shares.of(scores.lenient),
        round(scores.aspects.f1, 4), round(scores.opinions.f1, 4),
        round(scores.polarity_accuracy, 4), round(scores.grounded_share, 4), unusable,
        round(reviews / seconds, 2), round(1000 * used / reviews, 2),
        cpu(), dt.datetime.now(dt.UTC).date().isoformat(),
    )  # fmt: skip


def kept(rows: Sequence[Row], path: Path) -> list[Row]:
    """The rows and those of the file that no row replaces, written to the file. Raises WrongSetting."""
    try:
        before = msgspec.json.decode(path.read_bytes(), type=list[Row]) if path.exists() else []
    except msgspec.DecodeError as error:
        raise WrongSetting(f"{path} has no figures of this command: {error}") from None
    replaced = {(row.provider, row.file) for row in rows}
    whole = [*(row for row in before if (row.provider, row.file) not in replaced), *rows]
    whole.sort(key=lambda row: (row.provider, row.of, row.file))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")
    return whole


def drawn(rows: Sequence[Row], document: str) -> str:
    """The document with its figures drawn anew; they go to its end where there are none."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head.rstrip()}\n\n{BEGIN}\n\n{markdown(rows)}\n\n{END}\n{tail.lstrip()}"


def markdown(rows: Sequence[Row]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'|'.join(['---'] * 2 + ['--:'] * (len(COLUMNS) - 2))}|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in with_means(rows)]
    who = {row.provider: row for row in rows}
    lines.append("")
    lines += [f"- {row.provider}: {row.name}; {row.hardware}, {row.date}" for row in who.values()]
    return "\n".join(lines)


def with_means(rows: Sequence[Row]) -> list[Row]:
    """Behind the rows of a provider on a set of several files their mean, each file counting alike."""
    told: list[Row] = []
    for (_, of), some in groupby(rows, key=lambda row: (row.provider, row.of)):
        files = list(some)
        told += files
        if len(files) > 1:
            told.append(_mean(f"mean of {of}", files))
    return told


def _mean(name: str, rows: Sequence[Row]) -> Row:
    def mean(of: Callable[[Row], float]) -> float:
        return sum(map(of, rows)) / len(rows)

    def shares(of: Callable[[Row], Shares]) -> Shares:
        return Shares(
            mean(lambda row: of(row).precision), mean(lambda row: of(row).recall), mean(lambda row: of(row).f1)
        )

    reviews, found = sum(row.reviews for row in rows), sum(row.found for row in rows)
    return replace(
        rows[0], file=name, reviews=reviews, pairs=sum(row.pairs for row in rows), found=found,
        exact=shares(lambda row: row.exact), lenient=shares(lambda row: row.lenient),
        aspect_f1=mean(lambda row: row.aspect_f1), opinion_f1=mean(lambda row: row.opinion_f1),
        polarity_accuracy=mean(lambda row: row.polarity_accuracy),
        grounded_share=mean(lambda row: row.grounded_share), unusable=sum(row.unusable for row in rows),
        reviews_per_second=reviews / sum(row.reviews / row.reviews_per_second for row in rows),
        cpu_ms_per_review=sum(row.cpu_ms_per_review * row.reviews for row in rows) / reviews,
        left_out=sum(row.left_out for row in rows),
    )  # fmt: skip


def _cells(row: Row) -> list[str]:
    read = f"{row.reviews} of {row.reviews + row.left_out} reviews, " if row.left_out else ""
    return [
        row.provider, f"{row.file} ({read}{row.pairs} pairs)",
        str(row.exact), str(row.lenient),
        f"{row.aspect_f1:.3f}", f"{row.opinion_f1:.3f}", f"{row.polarity_accuracy:.3f}", f"{row.grounded_share:.3f}",
        f"{row.unusable}", _rate(row.reviews_per_second), f"{row.cpu_ms_per_review:.1f}",
    ]  # fmt: skip


def _rate(of: float) -> str:
    return f"{of:,.0f}" if of >= 10 else f"{of:.2f}"


def _show(rows: Sequence[Row], console: Console) -> None:
    if not console.is_terminal:
        console.print(markdown(rows), highlight=False, soft_wrap=True, markup=False)
        return
    table = Table(*COLUMNS)
    for row in with_means(rows):
        table.add_row(*(cell.replace("**", "") for cell in _cells(row)))
    console.print(table)


def main() -> None:
    """Exit codes: 0 done; 1 the provider does not answer, or a file cannot be written; 2 a wrong setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path, help="marked reviews, or folders with *dev* files of them")
    parser.add_argument("--provider", choices=PROVIDERS, help="instead of what FINESTREAM_EXTRACTOR_PROVIDER says")
    parser.add_argument("--limit", type=int, default=0, help="reviews of each file at most, spread over it; 0: all")
    parser.add_argument("--json", type=Path, help="keep the figures in this file; rows of others in it stay")
    parser.add_argument("--out", type=Path, help="draw the file's figures into this document; needs --json")
    arguments = parser.parse_args()
    if arguments.out and not arguments.json:
        parser.error("--out draws what --json keeps; name both")
    settings = read(ExtractorSettings)
    if arguments.provider:
        settings = settings.model_copy(update={"provider": arguments.provider})
    logs.configure("evaluate-extraction", settings.log_level)
    with ending():
        rows = asyncio.run(measure(settings, files_of(arguments.data), arguments.limit))
        _show(rows, Console())
        if arguments.json:
            whole = kept(rows, arguments.json)
            if arguments.out:
                before = arguments.out.read_text(encoding="utf-8") if arguments.out.exists() else ""
                arguments.out.write_text(drawn(whole, before), encoding="utf-8")


if __name__ == "__main__":
    main()
