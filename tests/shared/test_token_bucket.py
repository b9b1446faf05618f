"""shared/token_bucket.py: never more than the burst and the rate allow, and never less."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from shared.token_bucket import TokenBucket

RATES = st.integers(1, 10**7).map(lambda thousandths: thousandths / 1000)
# Between two calls: of the time that the rate takes for one, in twelfths, and some ns beside it.
GAPS = st.tuples(st.sampled_from([0, 1, 3, 6, 11, 12, 13, 30]), st.integers(-2, 2))


class Clock:
    def __init__(self) -> None:
        self.now = 12_345

    def __call__(self) -> int:
        return self.now


def allowed(rate: float, burst: int, admitted: list[int], now: int) -> bool:
    """By definition: with one more, no window that ends now has more than burst + rate * its length."""
    exact = Fraction(round(rate * 1000), 1000 * 10**9)  # a nanosecond
    count = len(admitted)
    return all(count - at + 1 <= burst + exact * (now - began) for at, began in enumerate([*admitted, now]))


@given(RATES, st.integers(1, 5), st.lists(GAPS, max_size=40))
def test_a_call_is_let_through_exactly_when_no_window_then_holds_more_than_burst_and_rate_allow(
    rate: float, burst: int, gaps: list[tuple[int, int]]
) -> None:
    clock, period = Clock(), 1e9 / rate
    bucket = TokenBucket(rate, burst, clock)
    admitted: list[int] = []
    for twelfths, beside in gaps:
        clock.now += max(0, round(period * twelfths / 12) + beside)
        expected = allowed(rate, burst, admitted, clock.now)
        assert (bucket.take() == 0.0) == expected
        if expected:
            admitted.append(clock.now)


@given(st.integers(1, 1000), st.integers(1, 3))
def test_who_keeps_to_the_rate_is_never_refused(rate: int, burst: int) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, burst, clock)
    period = -(-(10**9) // rate)  # ns, up
    for _ in range(200):
        assert bucket.take() == 0.0
        clock.now += period


@given(RATES, st.integers(1, 5), st.integers(0, 10**9))
def test_who_waits_as_long_as_told_is_let_through_and_not_much_sooner(rate: float, burst: int, gap: int) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, burst, clock)
    while not (wait := bucket.take()):
        clock.now += gap // burst
        if gap * rate >= 1e9:  # it never runs dry
            return
    told = round(wait * 1e9)
    clock.now += max(0, told - 10)
    assert bucket.take() > 0.0 or told <= 10
    clock.now += 20 + told // 10**6  # a float of seconds has no more digits
    assert bucket.take() == 0.0
