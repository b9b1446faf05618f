"""What one live state has that the log does not give, and the other way round, while both go on changing.

States are joins, so "is reflected in" is an order: a covers b when joining b changes nothing in a. A live state that
was asked for between two readings of the log is right when it covers the fold of the first one (nothing was lost)
and is covered by the fold of the second one (nothing was made up). Without traffic the two are the same fold, and
only that very state lies between.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Literal

from msgspec import Struct

from shared.folding import Node
from shared.graph import fold
from shared.graph.state import POPULARITY_BUCKET_SECONDS, ItemNode, ReviewSlot, UserState

KindName = Literal["user", "item"]
Held = Mapping[str, Mapping[Hashable, str]]  # field -> what the state holds there, each with its words


@dataclass(frozen=True)
class Kind(Generic[Node]):
    """What users and items do differently."""

    name: KindName
    empty: Callable[[str], Node]
    merge: Callable[[Node, Node], Node]
    same: Callable[[Node, Node], bool]
    held: Callable[[Node], Held]


class FieldDifference(Struct, frozen=True):
    """Words of what only the log and what only the live state has. Both are empty where the order is wrong."""

    field: str
    log_only: list[str]
    live_only: list[str]


def is_between(kind: Kind[Node], live: Node, lower: Node, upper: Node) -> bool:
    """Whether `live` has everything of `lower` and nothing that is not of `upper`."""
    return kind.same(live, upper) or (
        kind.same(kind.merge(live, lower), live) and kind.same(kind.merge(upper, live), upper)
    )


def differences(kind: Kind[Node], live: Node, lower: Node, upper: Node) -> list[FieldDifference]:
    """By field, for a live state that is not between."""
    held = kind.held(live)
    lost = _beyond(kind.held(kind.merge(live, lower)), held)
    made_up = _beyond(kind.held(kind.merge(upper, live)), kind.held(upper))
    beyond_bounds = _beyond(held, kind.held(kind.merge(live, live)))
    found = [FieldDifference(name, lost[name], made_up[name] + beyond_bounds[name]) for name in held]
    return [one for one in found if one.log_only or one.live_only] or [FieldDifference("order", [], [])]


def _beyond(a: Held, b: Held) -> dict[str, list[str]]:
    """The words of what `a` has and `b` has not."""
    return {name: [words for what, words in held.items() if what not in b[name]] for name, held in a.items()}


# --- what states hold -----------------------------------------------------------------------------------


def _held_by_user(user: UserState) -> Held:
    return {
        "interactions": {
            slot: f"{slot.event_id} ({slot.kind} of {slot.item_id}, {_utc(slot.ts)})" for slot in user.interactions
        },
        "reviews": {slot: _review(slot, "of") for slot in user.reviews},
        "erased_at": _moment(user.erased_at),
    }


def _held_by_item(item: ItemNode) -> Held:
    total: dict[Hashable, str] = {
        ("", number): f"user hash {number:016x} of all time" for number in item.popularity_total
    }
    return {
        "facts": {item.facts: f"“{item.facts.title}” ({_utc(item.facts.ts)})"} if item.facts else {},
        "semantics": {item.semantics: _semantics(item)} if item.semantics else {},
        "reviews": {slot: _review(slot, "by") for slot in item.reviews},
        "popularity": total
        | {
            (bucket, number): f"user hash {number:016x} in the 30 days from {_day(bucket)}"
            for bucket, numbers in item.popularity.items()
            for number in numbers
        },
        "last_seen": _moment(item.last_seen),
    }


def _review(slot: ReviewSlot, of: str) -> str:
    content = "blanked" if slot.erased_at else f"{len(slot.pairs)} opinions, extractor version {slot.extractor_version}"
    return f"{slot.review_id} ({of} {slot.other_id}, {_utc(slot.ts)}, {content})"


def _semantics(item: ItemNode) -> str:
    held = item.semantics
    return f"embedding of text {held.content_hash} ({_utc(held.ts)}, version {held.extractor_version})" if held else ""


def _moment(seconds: float) -> dict[Hashable, str]:
    return {seconds: _utc(seconds)} if seconds else {}


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + " UTC"


def _day(bucket: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(bucket * POPULARITY_BUCKET_SECONDS))


USERS: Final = Kind[UserState]("user", UserState, fold.merge_users, fold.same_user, _held_by_user)
ITEMS: Final = Kind[ItemNode]("item", ItemNode, fold.merge_items, fold.same_item, _held_by_item)
