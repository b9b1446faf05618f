"""docs/diversity.md from what was measured."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from shared.experiments.document import figure, table

if TYPE_CHECKING:  # drawn again without torch
    from shared.experiments.diversity import Measured, Row

HEAD: Final = (
    "method", "strength", "NDCG@10", "difference to none", "HR@10", "diversity", "diversity of texts", "coverage@10",
)  # fmt: skip
INTRO: Final = """# Diversity

Written by `finestream evaluate-diversity`. The lists of 10 of one fitted model are chosen from its {pool} best items as
ranking does it (`RankRequest.diversity`). Diversity is the mean of 1 - cosine over the pairs of a list, by the vectors
that the model scores with, which the methods look at, and by the items' texts, which they do not. Coverage is the share
of the catalogue that some list holds. A difference in NDCG@10 has its 95 % interval (paired bootstrap over users).
"""


def render(found: "Measured", plot: str | None) -> str:
    """The document. `plot`: the drawing's path from the document's folder."""
    parts = [
        INTRO.format(pool=found.pool),
        f"## {found.title}\n",
        f"{found.model}, seed {found.seed}; {found.targets:,} targets. Measured {found.date} on {found.machine}.\n",
        table_of(found.rows) + "\n",
    ]
    return "\n".join([*parts, f"![{found.title}]({plot})\n"] if plot else parts)


def table_of(rows: "Sequence[Row]") -> str:
    """Markdown, a line a row."""
    return table(HEAD, [_cells(row) for row in rows])


def _cells(row: "Row") -> list[str]:
    return [
        row.method,
        f"{row.strength:g}",
        figure(row.ndcg),
        f"{row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}]" if row.strength else "",
        figure(row.hr),
        figure(row.unlike, 3),
        "" if row.unlike_text is None else figure(row.unlike_text, 3),
        figure(row.coverage, 3),
    ]
