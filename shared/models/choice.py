"""Choose a setting on validation."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from shared.models.evaluation import Scorer
from shared.models.split import Split
from shared.models.training import validator

T = TypeVar("T")


def best(split: Split, settings: Sequence[T], scorer_of: Callable[[T], Scorer]) -> tuple[T, float]:
    """The setting with the best NDCG@10 on what is held out, the first of equals; with nothing held out the first."""
    if not split.held_out or len(settings) == 1:
        return settings[0], float("nan")
    reached = [validator(split, scorer_of(setting))() for setting in settings]
    at = max(range(len(settings)), key=lambda which: reached[which])
    return settings[at], reached[at]
