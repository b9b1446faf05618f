"""What every model's `fit` takes and gives: fit(split, config, run) -> Fitted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from shared.models.evaluation import Scorer

Report = Callable[[int, float, float], None]  # epoch from 1, training loss, what validation reached (NaN: none)


def silent(epoch: int, loss: float, reached: float) -> None:
    """A report that nobody reads."""


class Similar(Protocol):
    """Users alike, found by a vector index (never all pairs): `vectors` (U, E) in, the k nearest rows (U, k) out,
    -1 where there are fewer, and their cosine similarities (U, k). A row is never its own neighbour."""

    def __call__(self, vectors: Any, k: int) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class Run:
    """How one fit is to be run."""

    seed: int = 1
    device: str = "cpu"
    chosen: Mapping[str, Any] = field(default_factory=dict)  # what an earlier fit chose on validation; empty: choose
    max_seconds: float = float("inf")
    checkpoint: Path | None = None  # a folder: a fit that was killed goes on from there to the same result
    report: Report = silent
    similar: Similar | None = None


@dataclass(frozen=True)
class Fitted:
    """`chosen` goes into the Run of a refit: "epochs" at least for what is learnt in epochs."""

    scorer: Scorer  # cases (B,) -> scores (B, N) over split.row_of
    chosen: Mapping[str, Any] = field(default_factory=dict)
    parameters: int = 0
    samples: int = 0  # targets learnt from, over all epochs
    seconds: float = 0.0
    curve: Sequence[tuple[int, float, float]] = ()  # what was reported
    model: Any = None  # the model itself, for what a caller knows how to use
    cut_short: bool = False  # time ran out before the training had ended


Fit = Callable[[Any, Any, Run], Fitted]
