"""Trains the span model: `python -m services.extractor.spans.train DATA... [--out FILE]`.

DATA are files of marked reviews, or folders of which the *train* files are read. A tenth of each file, told by its
text, is held out: on it the epoch and the threshold are chosen. Files that are reported on are never read here.
"""

import argparse
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from services.extractor import gold
from services.extractor.evaluation import scores_of
from services.extractor.gold import GoldFile, GoldReview
from services.extractor.spans.decoding import SpanPair, pairs_of
from services.extractor.spans.model import WEIGHTS, About, findings_of, save
from services.extractor.spans.network import Shape, SpanNetwork
from services.extractor.spans.training import Fit, epochs, marked
from services.extractor.spans.windows import Windows
from shared import embedding
from shared.cli.screen import Screen

HELD_OUT: Final = 10  # one of so many reviews
THRESHOLDS: Final = tuple(round(0.20 + 0.05 * n, 2) for n in range(10))


def parted(files: Sequence[GoldFile], *, held_out: bool) -> list[GoldFile]:
    """The files without what is held out, or that; the same whatever the order of the lines."""
    return [
        replace(file, reviews=tuple(review for review in file.reviews if _held_out(review) is held_out))
        for file in files
    ]


def _held_out(review: GoldReview) -> bool:
    return zlib.crc32(review.text.encode()) % HELD_OUT == 0


def judged(files: Sequence[GoldFile], network: SpanNetwork, windows: Windows) -> tuple[float, float, float]:
    """The best threshold by the mean of the files' exact F1, with that mean and that of lenient F1."""
    found = [pairs_of(network, windows, [r.text for r in file.reviews], THRESHOLDS[0]) for file in files]
    return max((_f1(files, found, threshold) for threshold in THRESHOLDS), key=lambda told: told[1])


def _f1(
    files: Sequence[GoldFile], found: Sequence[Sequence[Sequence[SpanPair]]], threshold: float
) -> tuple[float, float, float]:
    scores = []
    for file, of_file in zip(files, found, strict=True):
        # A pair's rivals are likelier than it, so a higher threshold takes nothing but the end of the list away.
        likely = [[one for one in some if one.probability >= threshold] for some in of_file]
        findings = [findings_of(review.text, some) for review, some in zip(file.reviews, likely, strict=True)]
        scores.append(scores_of(file, findings))
    mean = [sum(values) / len(files) for values in zip(*((s.exact.f1, s.lenient.f1) for s in scores), strict=True)]
    return threshold, mean[0], mean[1]


def train(files: Sequence[GoldFile], shape: Shape, fit: Fit, encoder: str, out: Path, screen: Screen) -> None:
    """Writes the weights of the best epoch. One thread and one seed give the same weights again."""
    torch.manual_seed(fit.seed)
    base, tokenizer = embedding.load(encoder or None)
    windows = Windows(tokenizer)
    learnt_from, held_out = parted(files, held_out=False), parted(files, held_out=True)
    network = SpanNetwork(base, shape, dropout=fit.dropout, adapter_dropout=fit.adapter_dropout)
    numbers = sum(tensor.numel() for tensor in network.learnt().values())
    data = marked(windows, learnt_from)
    screen.heading(
        f"{len(data):,} windows of {sum(f.pairs for f in learnt_from):,} pairs, {numbers:,} weights to learn"
    )
    best = 0.0
    for epoch, loss, averaged in epochs(network, data, fit):
        with averaged.in_place(network):
            threshold, exact, lenient = judged(held_out, network, windows)
        screen.note(
            f"{screen.seconds:6.0f} s  epoch {epoch} of {fit.epochs}, loss {loss:.3f}; held out, at {threshold}:"
            f" exact F1 {exact:.4f}, lenient {lenient:.4f}"
        )
        if exact > best:
            best = exact
            trained = f"{', '.join(file.name for file in files)}; epoch {epoch}, held out {exact:.4f} / {lenient:.4f}"
            save(averaged.held, About(shape, threshold, trained), out)


def main() -> None:
    shape, fit = Shape(), Fit()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path, help="files, or folders of which the *train* files are read")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--encoder", default="", help="folder of the MiniLM; empty: the bundled one")
    parser.add_argument("--layers", type=int, default=shape.layers, help="of the encoder")
    parser.add_argument("--epochs", type=int, default=fit.epochs)
    parser.add_argument("--seed", type=int, default=fit.seed)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    paths = [file for path in given.data for file in (sorted(path.glob("*train*")) if path.is_dir() else [path])]
    files = [gold.read(path) for path in paths]
    shape, fit = replace(shape, layers=given.layers), replace(fit, epochs=given.epochs, seed=given.seed)
    train(files, shape, fit, given.encoder, given.out, Screen(Console(file=sys.stdout)))


if __name__ == "__main__":
    main()
