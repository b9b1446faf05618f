"""services/ranking/facts.py: what is known of items follows their states."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.ranking import facts as of_items
from services.ranking.facts import Facts
from tests.services.ranking.doubles import item_of

NAMES = ["root", "half", "third", "rare", "none"]
CHANGES = st.lists(st.tuples(st.integers(0, 79), st.sets(st.sampled_from(NAMES[:4]))), max_size=30)


@settings(deadline=None, max_examples=100)
@given(before=CHANGES, after=CHANGES, asked=st.sets(st.sampled_from(NAMES), min_size=1), later=st.integers(0, 2000))
def test_the_mask_of_categories_is_their_rows_whatever_has_changed_since_it_was_made(
    before: list[tuple[int, set[str]]], after: list[tuple[int, set[str]]], asked: set[str], later: int
) -> None:
    facts, versions = Facts(), iter(range(2, 10_000))
    facts.put([item_of(f"i{n}", categories=["root", *(["half"] * (n % 2)), *(["rare"] * (n == 7))]) for n in range(80)])
    for changes in (before, after):
        for name in NAMES:
            facts.mask_in([name])
        facts.put([item_of(f"i{n}", next(versions), categories=sorted(names)) for n, names in changes])
    facts.put([item_of(f"new{n}", categories=["third"]) for n in range(later)])
    mask, rows = facts.mask_in(asked), facts.rows_in(asked)
    if mask is None:
        assert all(of_items.FEW * len(facts.rows_in([name])) < len(facts) for name in asked if facts.rows_in([name]))
    else:
        assert len(mask) == len(facts)
        assert set(mask.nonzero()[:, 0].tolist()) == rows
