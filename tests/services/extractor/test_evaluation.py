"""services/extractor/evaluation.py: what counts as found, by hand and against every possible matching."""

from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.extractor.evaluation import Pair, Scores, exact, lenient, matches, scores_of
from services.extractor.findings import Finding, Span
from services.extractor.gold import GoldFile, GoldPair, GoldReview

TEXT = "The battery life is very good but it is heavy ."
spans = st.tuples(st.integers(0, 6), st.integers(1, 3)).map(lambda s: (s[0], s[0] + s[1]))
pairs = st.lists(st.tuples(st.none() | spans, spans), max_size=4)


def at(words: str) -> Span:
    start = TEXT.index(words)
    return start, start + len(words)


def file_of(*marked: GoldPair, names_implicit: bool = True) -> GoldFile:
    words: list[Span] = []
    for word in TEXT.split(" "):
        start = words[-1][1] + 1 if words else 0
        words.append((start, start + len(word)))
    return GoldFile("some", "set", (GoldReview(TEXT, tuple(words), marked),), names_implicit)


def scored(*findings: Finding, names_implicit: bool = True) -> Scores:
    marked = [GoldPair(at("battery life"), at("very good"), 1)]
    if names_implicit:
        marked.append(GoldPair(None, at("heavy"), -1))
    return scores_of(file_of(*marked, names_implicit=names_implicit), [findings])


def finding(aspect: str, opinion: str, polarity: int, quote: str = TEXT) -> Finding:
    return Finding(aspect, opinion, polarity, quote)


def placed(aspect: str, opinion: str, polarity: int) -> Finding:
    return Finding(
        aspect, "whatever", polarity, opinion, aspect_at=at(aspect) if aspect else None, opinion_at=at(opinion)
    )


def test_what_is_marked_is_found_exactly() -> None:
    scores = scored(placed("battery life", "very good", 1), placed("", "heavy", -1))
    for counted in (scores.exact, scores.lenient, scores.opinions):
        assert (counted.precision, counted.recall, counted.f1) == (1.0, 1.0, 1.0)
    assert (scores.aspects.found, scores.aspects.f1) == (1, 1.0)
    assert scores.polarity_accuracy == 1.0


def test_a_shared_word_is_a_lenient_match_only_and_its_polarity_counts() -> None:
    scores = scored(placed("battery", "good", -1))
    assert (scores.exact.both, scores.lenient.both) == (0, 1)
    assert (scores.lenient.precision, scores.lenient.recall) == (1.0, 0.5)
    assert scores.polarity_accuracy == 0.0


def test_a_part_of_a_word_is_the_word() -> None:
    scores = scored(placed("attery lif", "ery goo", 1))
    assert scores.exact.both == 1


def test_an_opinion_in_other_words_counts_and_stands_where_its_quote_stands() -> None:
    scores = scored(finding("", "weighs a ton", -1, "it is heavy"))
    assert (scores.exact.found, scores.exact.both, scores.lenient.both) == (1, 0, 1)
    assert scored(finding("", "weighs a ton", -1, "heavy")).exact.both == 1


def test_a_quote_that_is_not_in_the_text_is_not_compared_and_not_grounded() -> None:
    scores = scored(finding("battery life", "very good", 1, "the battery lasts for weeks"))
    assert (scores.exact.found, scores.findings, scores.grounded_share) == (0, 1, 0.0)


def test_opinions_of_nothing_named_do_not_count_where_nobody_marked_such() -> None:
    scores = scored(placed("battery life", "very good", 1), placed("", "heavy", -1), names_implicit=False)
    assert (scores.exact.found, scores.exact.precision) == (1, 1.0)


def test_a_pair_found_twice_is_one() -> None:
    scores = scored(placed("", "heavy", -1), placed("", "heavy", 1))
    assert (scores.exact.found, scores.polarity_accuracy) == (1, 1.0)


def test_one_long_finding_matches_one_marked_pair_only() -> None:
    marked = (GoldPair(None, at("very good"), 1), GoldPair(None, at("heavy"), -1))
    scores = scores_of(file_of(*marked), [[placed("", "very good but it is heavy", 1)]])
    assert (scores.lenient.both, scores.lenient.recall) == (1, 0.5)


@pytest.mark.parametrize("same", [exact, lenient])
@given(found=pairs, marked=pairs)
def test_as_many_pairs_are_matched_as_can_be_and_each_once(same: object, found: list[Pair], marked: list[Pair]) -> None:
    compare = exact if same is exact else lenient

    def alike(f: int, m: int) -> bool:
        return compare(found[f][0], marked[m][0]) and compare(found[f][1], marked[m][1])

    got = matches(found, marked, compare)
    assert all(alike(f, m) for f, m in got)
    assert len({f for f, _ in got}) == len({m for _, m in got}) == len(got)
    more = len(got) + 1
    possible = (
        all(alike(f, m) for f, m in zip(some, order, strict=True))
        for some in combinations(range(len(found)), more)
        for order in permutations(range(len(marked)), more)
    )
    assert not any(possible)
