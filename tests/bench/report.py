"""Figures for the eye: a table on a terminal, lines elsewhere."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.bench.figure import Figure

COLUMNS = ("benchmark", "ours", "baseline", "unit", "ratio", "goal")


def show(figures: Sequence[Figure], console: Console) -> None:
    """All figures of one run, and under them what each is, its further numbers, and what all were measured on."""
    if console.is_terminal:
        console.print(_table(figures))
    for figure in figures:
        heading = figure.name if console.is_terminal else line(figure)
        console.print(escape("\n".join([heading, *_details(figure)])), highlight=False, soft_wrap=True)
    for on in dict.fromkeys(f"{f.hardware}, Python {f.python}, {f.date}" for f in figures):
        console.print(escape(on), highlight=False, soft_wrap=True)


def line(figure: Figure) -> str:
    """A figure without a table."""
    said = [f"ours {number(figure.ours)} {figure.unit}", f"baseline {number(figure.baseline)} {figure.unit}"]
    said += [f"ratio {figure.ratio:.2f}", *filter(None, [figure.verdict])]
    return f"{figure.name}: {', '.join(said)}"


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(figures: Sequence[Figure]) -> Table:
    drawn = Table(*COLUMNS)
    for f in figures:
        cells = (f.name, number(f.ours), number(f.baseline), f.unit, f"{f.ratio:.2f}", f.verdict)
        drawn.add_row(*map(escape, cells))
    return drawn


def _details(figure: Figure) -> list[str]:
    parts = [f"{name}: {number(value)}" for name, value in figure.parts.items()]
    return [f"  {told}" for told in (figure.what, *parts)]
