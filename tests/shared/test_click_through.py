"""shared/click_through.py: a click counts once, for what was shown before it, and intervals hold what they promise."""

from collections.abc import Sequence

import numpy as np
import pytest

from shared.click_through import ClickThrough, Rate, against_control, interval
from shared.events import Impression, Interaction

T0 = 1_700_000_000.0
HOUR = 3600.0


def shown(user: str, items: str, at: float, variant: str = "") -> Impression:
    return Impression(
        request_id=f"{user} {at}", user_id=user, ts=T0 + at, item_ids=list(items), rung="full", model_version="v",
        variant=variant,
    )  # fmt: skip


def met(user: str, item: str, at: float, kind: str = "click") -> Interaction:
    return Interaction(event_id=f"{user} {at}", user_id=user, item_id=item, ts=T0 + at, kind=kind)


LATER = met("nobody", "z", 10 * HOUR)


def rates(impressions: Sequence[Impression], clicks: Sequence[Interaction], window: float = HOUR) -> dict[str, Rate]:
    found = ClickThrough(T0, window)
    found.read([*clicks, LATER])
    found.read(impressions)
    return found.rates()


def counts(*args: Sequence[Impression] | Sequence[Interaction]) -> dict[str, tuple[int, int]]:
    return {name: (rate.shown, rate.clicked) for name, rate in rates(*args).items()}  # type: ignore[arg-type]


def test_a_click_counts_for_the_variant_that_showed_the_item_to_that_user() -> None:
    impressions = [shown("u", "abc", 0), shown("v", "abc", 0, "other")]
    assert counts(impressions, [met("v", "a", 60)]) == {"": (3, 0), "other": (3, 1)}
    assert counts(impressions, [met("u", "x", 60), met("w", "a", 60)]) == {"": (3, 0), "other": (3, 0)}


@pytest.mark.parametrize("order", [1, -1])
def test_a_click_counts_once_for_the_last_showing_before_it(order: int) -> None:
    impressions = [shown("u", "a", 0), shown("u", "a", 100, "other"), shown("u", "a", 300)][::order]
    twice = [met("u", "a", 200), met("u", "a", 200)]
    assert counts(impressions, twice) == {"": (2, 0), "other": (1, 1)}
    assert counts(impressions, [met("u", "a", 200), met("u", "a", 301)]) == {"": (2, 1), "other": (1, 1)}


def test_what_is_too_late_too_early_or_no_click_does_not_count() -> None:
    clicks = [met("u", "a", HOUR + 1), met("u", "b", 0), met("u", "c", 60, "view")]
    assert counts([shown("u", "abc", 0)], clicks) == {"": (3, 0)}
    assert counts([shown("u", "a", -60), shown("u", "", 5)], [met("u", "a", 60)]) == {}


def test_what_the_window_has_not_passed_for_is_left_out() -> None:
    assert counts([shown("u", "a", 0), shown("u", "b", 9.5 * HOUR)], []) == {"": (1, 0)}


def test_intervals_hold_the_truth_as_often_as_they_say_though_users_differ() -> None:
    rng = np.random.default_rng(7)
    held, sure = 0, 0
    for _ in range(200):
        impressions, clicks = [], []
        for user in range(120):
            likes = rng.beta(0.5, 2.0)  # mean 0.2, and much between users: single showings are not independent
            variant = "other" if user % 2 else ""
            items = "abcdefghij"[: rng.integers(2, 11)]
            impressions.append(shown(f"u{user}", items, 0, variant))
            clicks += [met(f"u{user}", item, 9) for item in items if rng.random() < likes]
        found = rates(impressions, clicks)
        low, high = interval(found[""])
        held += low <= 0.2 <= high
        sure += against_control(found)["other"].sure
    assert 0.90 <= held / 200 <= 0.985
    assert sure / 200 <= 0.09, "both are alike, so only chance makes one sure"


def test_a_difference_that_is_there_is_found_and_few_users_are_never_enough() -> None:
    def of(users: int) -> dict[str, Rate]:
        impressions = [shown(f"u{n}", "abcd", 0, "other" if n % 2 else "") for n in range(users)]
        return rates(impressions, [met(f"u{n}", "a", 9) for n in range(users) if n % 2 or n % 4 == 0])

    assert against_control(of(400))["other"].sure
    assert not against_control(of(40))["other"].enough
    assert not against_control(of(40))["other"].sure
    assert against_control({name: rate for name, rate in of(40).items() if name}) == {}
