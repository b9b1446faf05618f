"""Trains the span model: `python -m services.extractor.spans.train DATA... [--out FILE]`.

DATA are files of marked reviews, or folders of which the *train* files are read. A tenth of each file, told by its
text, is held out: on it the epoch and the threshold are chosen. Files that are reported on are never read here.

With `--teacher FILE` it also learns what a larger network believes, of the marked reviews and of `--unmarked` ones;
that is trained by the same command with an encoder of its own (docs/extraction.md).
"""

import argparse
import json
import random
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from rich.console import Console
from tokenizers import Tokenizer

from services.extractor import gold
from services.extractor.evaluation import scores_of
from services.extractor.extract_file import texts_of
from services.extractor.gold import GoldFile, GoldReview
from services.extractor.spans import mpnet
from services.extractor.spans.decoding import SpanPair, pairs_of
from services.extractor.spans.model import WEIGHTS, About, digest_of, findings_of, load, save
from services.extractor.spans.network import Shape, SpanNetwork
from services.extractor.spans.teaching import believed, mixed
from services.extractor.spans.training import Fit, Marked, epochs, marked
from services.extractor.spans.windows import Window, Windows
from shared import embedding
from shared.cli.screen import Screen
from shared.embedding import Encoder
from shared.experiments.readers import BadLines

D = TypeVar("D", Shape, Fit)
HELD_OUT: Final = 10  # one of so many reviews
THRESHOLDS: Final = tuple(round(0.10 + 0.05 * n, 2) for n in range(10))
UNMARKED_CHARS: Final = range(40, 900)  # of a review that nobody marked: as long as most that people did


@dataclass(frozen=True, slots=True)
class Teaching:
    """Who teaches, and of what besides the marked reviews."""

    weights: Path
    encoder: str  # folder
    unmarked: Sequence[Path]  # files of reviews
    reviews: int  # of each of them
    share: float  # of what a marked review's labels are; the rest is what people marked


def parted(files: Sequence[GoldFile], *, held_out: bool) -> list[GoldFile]:
    """The files without what is held out, or that; the same whatever the order of the lines."""
    return [
        replace(file, reviews=tuple(review for review in file.reviews if _held_out(review) is held_out))
        for file in files
    ]


def _held_out(review: GoldReview) -> bool:
    return zlib.crc32(review.text.encode()) % HELD_OUT == 0


@dataclass(frozen=True, slots=True)
class Judged:
    """Means over the files."""

    threshold: float
    exact: float  # F1
    lenient: float  # F1
    polarity: float  # share of the lenient matches

    @property
    def whole(self) -> float:
        return self.exact + self.lenient + self.polarity

    def __str__(self) -> str:
        return f"exact F1 {self.exact:.4f}, lenient {self.lenient:.4f}, polarity {self.polarity:.4f}"


def judged(files: Sequence[GoldFile], network: SpanNetwork, windows: Windows) -> Judged:
    """With the threshold that is best by the sum of all three."""
    found = [pairs_of(network, windows, [r.text for r in file.reviews], THRESHOLDS[0]) for file in files]
    return max((_judged(files, found, threshold) for threshold in THRESHOLDS), key=lambda told: told.whole)


def _judged(files: Sequence[GoldFile], found: Sequence[Sequence[Sequence[SpanPair]]], threshold: float) -> Judged:
    scores = []
    for file, of_file in zip(files, found, strict=True):
        # A pair's rivals are likelier than it, so a higher threshold takes nothing but the end of the list away.
        likely = [[one for one in some if one.probability >= threshold] for some in of_file]
        findings = [findings_of(review.text, some) for review, some in zip(file.reviews, likely, strict=True)]
        scores.append(scores_of(file, findings))
    told = zip(*((s.exact.f1, s.lenient.f1, s.polarity_accuracy) for s in scores), strict=True)
    return Judged(threshold, *(sum(values) / len(files) for values in told))


def encoder_of(folder: str) -> tuple[Encoder, Tokenizer]:
    """A BERT or an MPNet, and the bundled MiniLM's tokenizer; empty: that MiniLM. Raises EmbeddingUnavailable."""
    base, tokenizer = embedding.load()
    if not folder:
        return base, tokenizer
    kind = json.loads((Path(folder) / "config.json").read_bytes()).get("model_type")
    return (mpnet.load(Path(folder), tokenizer), tokenizer) if kind == mpnet.KIND else embedding.load(folder)


def taught(data: Sequence[Marked], teaching: Teaching, seed: int, screen: Screen) -> list[Marked]:
    """What is marked mixed with what the teacher believes, and what it believes of reviews that nobody marked."""
    encoder, tokenizer = encoder_of(teaching.encoder)
    teacher, about = load(encoder, teaching.weights)
    teacher.eval().halved = True
    unmarked = _unmarked(Windows(tokenizer), teaching, seed)
    screen.heading(f"{len(unmarked):,} windows that nobody marked; the teacher learnt from {about.trained}")
    told = believed(teacher, [one.window for one in data])
    weights = (1.0 - teaching.share, teaching.share)
    both = [mixed(list(zip(weights, parts, strict=True))) for parts in zip(data, told, strict=True)]
    return both + believed(teacher, unmarked)


def _unmarked(windows: Windows, teaching: Teaching, seed: int) -> list[Window]:
    texts: list[str] = []
    for path in teaching.unmarked:
        distinct = dict.fromkeys(text for _, text in texts_of(path, BadLines(path)) if len(text) in UNMARKED_CHARS)
        drawn = random.Random(seed).sample(list(distinct), min(teaching.reviews, len(distinct)))  # noqa: S311
        texts.extend(drawn)
    return windows.of(texts)


def train(
    files: Sequence[GoldFile],
    again: Sequence[GoldFile],
    shape: Shape,
    fit: Fit,
    encoder: str,
    teaching: Teaching | None,
    out: Path,
    screen: Screen,
) -> None:
    """Writes the weights of the best epoch. One thread and one seed give the same weights again on one machine.

    `again`: files that every epoch reads once more than the others, as often as they are named.
    """
    torch.manual_seed(fit.seed)
    base, tokenizer = encoder_of(encoder)
    windows = Windows(tokenizer)
    learnt_from, held_out = parted(files, held_out=False), parted(files, held_out=True)
    network = SpanNetwork(base, shape, dropout=fit.dropout, adapter_dropout=fit.adapter_dropout)
    network.halved = fit.half
    numbers = sum(tensor.numel() for tensor in network.learnt().values())
    data = marked(windows, [*learnt_from, *parted(again, held_out=False)])
    screen.heading(
        f"{len(data):,} windows of {sum(f.pairs for f in learnt_from):,} pairs, {numbers:,} weights to learn"
    )
    if teaching:
        data = taught(data, teaching, fit.seed, screen)
    best = 0.0
    for epoch, loss, averaged in epochs(network, data, fit):
        with averaged.in_place(network):
            found = judged(held_out, network, windows)
        screen.note(
            f"{screen.seconds:6.0f} s  epoch {epoch} of {fit.epochs}, loss {loss:.3f}; held out, at {found.threshold}:"
            f" {found}"
        )
        if found.whole > best:
            best = found.whole
            names = ", ".join(file.name for file in files) + (" and a teacher" if teaching else "")
            trained = f"{names}; epoch {epoch}, held out: {found}"
            save(averaged.held, About(shape, found.threshold, trained, digest_of(base)), out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="files, or folders of which the *train* files are read")
    parser.add_argument("--again", nargs="*", default=[], type=Path, help="of these, what an epoch reads once more")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--encoder", default="", help="folder of a BERT or an MPNet; empty: the bundled MiniLM")
    _add_fields(parser, Shape())
    _add_fields(parser, Fit())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--teacher", type=Path, help="weights of a larger network")
    parser.add_argument("--teacher-encoder", default="", help="the folder of its encoder")
    parser.add_argument("--teacher-share", type=float, default=0.5, help="of a marked review's labels")
    parser.add_argument("--unmarked", nargs="*", default=[], type=Path, help="files of reviews for the teacher to mark")
    parser.add_argument("--unmarked-reviews", type=int, default=3200, help="of each of these files")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    files, again = _read(given.data), _read(given.again)
    teaching = given.teacher and Teaching(
        given.teacher, given.teacher_encoder, given.unmarked, given.unmarked_reviews, given.teacher_share
    )
    screen = Screen(Console(file=sys.stdout))
    train(files, again, _given(given, Shape()), _given(given, Fit()), given.encoder, teaching, given.out, screen)


def _read(paths: Sequence[Path]) -> list[GoldFile]:
    files = [file for path in paths for file in (sorted(path.glob("*train*")) if path.is_dir() else [path])]
    return [gold.read(file) for file in files]


def _add_fields(parser: argparse.ArgumentParser, defaults: Any) -> None:
    """One option a field: what it means is said where it is defined."""
    for field in fields(defaults):
        default = getattr(defaults, field.name)
        named = f"--{field.name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(named, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(named, type=type(default), default=default)


def _given(given: argparse.Namespace, defaults: D) -> D:
    return replace(defaults, **{field.name: getattr(given, field.name) for field in fields(defaults)})


if __name__ == "__main__":
    main()
