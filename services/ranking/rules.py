"""Rules of the house as data: an operator's file of pins, boosts and quotas.

    pins:                            # this item at this place, from 1, wherever the request's filters let it be shown
      - {item: B003VWJ2K8, position: 1}
    boosts:                          # of an item or of all items of a category; a factor or an offset
      - {category: strings, factor: 1.2}
      - {item: B0002GMGYA, offset: -0.5}
    quotas:                          # at most so many items of a category in one answer
      - {category: picks, most: 2}

A factor above 1 raises a score, below 1 it lowers it, whatever its sign: a score below 0 is divided by it. Factors of
an item are multiplied, then offsets added. An offset is in the model's scores, so where the popular items are ranked
only factors count.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta, Struct

from shared import watched_file
from shared.events import Id

MAX_PINS: Final = 100
MAX_RULES: Final = 1000  # boosts, and quotas


class Pin(Struct, frozen=True, forbid_unknown_fields=True):
    item: Id
    position: Annotated[int, Meta(ge=1, le=10_000)]


class Boost(Struct, frozen=True, forbid_unknown_fields=True):
    item: Id = ""
    category: Id = ""
    factor: Annotated[float, Meta(ge=0.001, le=1000)] = 1.0
    offset: Annotated[float, Meta(ge=-1e6, le=1e6)] = 0.0

    def __post_init__(self) -> None:
        if bool(self.item) == bool(self.category):
            raise ValueError("a boost is of an item or of a category; name one of them")
        if (self.factor != 1.0) == (self.offset != 0.0):
            raise ValueError("a boost has a factor other than 1 or an offset other than 0; give one of them")


class Quota(Struct, frozen=True, forbid_unknown_fields=True):
    category: Id
    most: Annotated[int, Meta(ge=1, le=10_000)]


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    pins: Annotated[tuple[Pin, ...], Meta(max_length=MAX_PINS)] = ()
    boosts: Annotated[tuple[Boost, ...], Meta(max_length=MAX_RULES)] = ()
    quotas: Annotated[tuple[Quota, ...], Meta(max_length=MAX_RULES)] = ()

    def __post_init__(self) -> None:
        for name, values in (
            ("an item is pinned", [pin.item for pin in self.pins]),
            ("a position is pinned", [str(pin.position) for pin in self.pins]),
            ("a category has a quota", [quota.category for quota in self.quotas]),
        ):
            if twice := [value for value, times in Counter(values).items() if times > 1]:
                raise ValueError(f"{name} twice: {twice[0]}")


NO_RULES: Final = Rules()


def read(path: Path) -> Rules:
    """Raises BadFile."""
    return watched_file.read(path, Rules) or NO_RULES
