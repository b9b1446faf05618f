"""Click-through of an experiment's variants, from the archived log: which share of what was shown was clicked.

A click counts for the last showing of that item to that user before it, within a window. What was shown to one user is
not independent of each other, so users are the clusters from which the errors come (a ratio of two sums over users,
linearised: W. G. Cochran, Sampling Techniques, 1977, chapter 6). Memory grows with the clicks since the beginning, and
with the users.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import hypot, inf
from statistics import NormalDist
from typing import Final

from shared.events import Event, Impression, Interaction, user_hash

CLICK: Final = "click"
LEVEL: Final = 0.95
LEAST_USERS: Final = 30  # below that a mean of users is not near enough to a normal distribution


@dataclass(frozen=True)
class Rate:
    """`error` is the standard error of `rate`."""

    users: int
    shown: int
    clicked: int
    rate: float
    error: float


@dataclass(frozen=True)
class Against:
    """A rate less another: the interval that holds it with LEVEL, for all that are compared together."""

    low: float
    high: float
    enough: bool  # users

    @property
    def sure(self) -> bool:
        return self.enough and not self.low <= 0 <= self.high


@dataclass(slots=True)
class _Click:
    ts: float
    shown_at: float = -inf
    variant: str = ""


@dataclass(slots=True)
class _Counts:
    shown: int = 0
    clicked: int = 0


@dataclass
class ClickThrough:
    """Give it all interactions, then all impressions; `since` in seconds since 1970, `window` in seconds."""

    since: float
    window: float
    _clicks: dict[tuple[int, str], dict[float, _Click]] = field(default_factory=lambda: defaultdict(dict))
    _newest: float = -inf
    _counts: dict[str, dict[int, _Counts]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(_Counts)))

    def read(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Interaction):
                self._interaction(event)
            elif isinstance(event, Impression):
                self._impression(event)

    def _interaction(self, event: Interaction) -> None:
        self._newest = max(self._newest, event.ts)
        if event.kind == CLICK and event.ts > self.since:
            self._clicks[user_hash(event.user_id), event.item_id][event.ts] = _Click(event.ts)  # sent twice, it is one

    def _impression(self, event: Impression) -> None:
        # What the window has not passed for yet would count as not clicked.
        if not event.item_ids or not self.since <= event.ts <= self._newest - self.window:
            return
        user = user_hash(event.user_id)
        self._counts[event.variant][user].shown += len(event.item_ids)
        for item_id in event.item_ids:
            for click in self._clicks.get((user, item_id), {}).values():
                if click.shown_at <= event.ts < click.ts <= event.ts + self.window:
                    click.shown_at, click.variant = event.ts, event.variant

    def rates(self) -> dict[str, Rate]:
        """Of each variant that was shown; the control's under the empty name."""
        for (user, _), clicks in self._clicks.items():
            for click in clicks.values():
                if click.shown_at > -inf:
                    self._counts[click.variant][user].clicked += 1
        self._clicks.clear()
        return {variant: _rate(list(counts.values())) for variant, counts in sorted(self._counts.items())}


def _rate(users: list[_Counts]) -> Rate:
    shown, clicked, count = sum(user.shown for user in users), sum(user.clicked for user in users), len(users)
    rate = clicked / shown
    squares = sum((user.clicked - rate * user.shown) ** 2 for user in users)
    error = (squares * count / (count - 1)) ** 0.5 / shown if count > 1 else inf
    return Rate(count, shown, clicked, rate, error)


def interval(rate: Rate) -> tuple[float, float]:
    """That holds the true rate with LEVEL."""
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * rate.error
    return max(0.0, rate.rate - half), min(1.0, rate.rate + half)


def against_control(rates: Mapping[str, Rate]) -> dict[str, Against]:
    """Each variant less the control; empty where there is no control."""
    control, others = rates.get(""), {name: rate for name, rate in rates.items() if name}
    if control is None:
        return {}
    return {name: _less(rate, control, len(others)) for name, rate in others.items()}


def _less(one: Rate, other: Rate, compared: int) -> Against:
    half = NormalDist().inv_cdf(1 - (1 - LEVEL) / 2 / compared) * hypot(one.error, other.error)  # Bonferroni
    difference = one.rate - other.rate
    return Against(difference - half, difference + half, min(one.users, other.users) >= LEAST_USERS)
