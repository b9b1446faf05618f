"""shared/topics.py: what is derived has topics of its own in each space; everything else is shared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import topics

SPACES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,20}\Z")
NAMES = [name for t in topics.ALL for name in (t.name, topics.dead_letters(t.name))]
DERIVED = {topics.OPINIONS, topics.ITEM_SEMANTICS, topics.ITEM_EDGES, topics.ITEM_STATES}


@given(st.sampled_from(NAMES), SPACES)
def test_a_name_comes_back_from_its_space(name: str, space: str) -> None:
    outside = topics.in_space(name, space)
    assert topics.plain(outside, space) == name
    assert topics.kind_of(outside.removesuffix(topics.DEAD_LETTER_SUFFIX)) == name.removesuffix(
        topics.DEAD_LETTER_SUFFIX
    )


@given(st.sampled_from(NAMES), SPACES, SPACES)
def test_two_spaces_share_exactly_what_is_not_derived(name: str, one: str, other: str) -> None:
    if one != other:
        shared = topics.in_space(name, one) == topics.in_space(name, other)
        assert shared == (name.removesuffix(topics.DEAD_LETTER_SUFFIX) not in DERIVED)


@given(st.sampled_from(sorted(DERIVED)), SPACES, SPACES)
def test_a_name_of_another_space_stays_whole(name: str, one: str, other: str) -> None:
    if one != other:
        outside = topics.in_space(name, one)
        assert topics.plain(outside, other) == outside


@pytest.mark.parametrize("name", NAMES)
def test_dead_letters_are_told_from_their_topic_in_any_space(name: str) -> None:
    assert topics.in_space(name, "s").endswith(topics.DEAD_LETTER_SUFFIX) == name.endswith(topics.DEAD_LETTER_SUFFIX)
