"""services/extractor/discovery.py: words of one kind are one attribute, and the operator's file is read or refused."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.extractor import discovery
from services.extractor.discovery import BadAttributes, Proposed, propose, read, written
from services.extractor.vectors import Vectors
from shared.space import Attribute

JUDGED = Counter({"battery": 9, "sound": 8, "tone": 6, "screen": 5, "charger": 4, "display": 3, "price": 2, "cost": 1})


async def test_words_that_mean_alike_are_one_attribute_named_after_the_commonest(vectors: Vectors) -> None:
    words = [word for word, _ in JUDGED.most_common()]
    proposed = propose(JUDGED, await vectors.phrases(words), attributes=8, likeness=0.4)
    terms = {one.name: set(one.terms) for one in proposed}
    assert terms["battery"] == {"battery", "charger"}
    assert terms["screen"] == {"screen", "display"}
    assert terms["price"] == {"price", "cost"}
    assert [one.judged for one in proposed] == sorted((one.judged for one in proposed), reverse=True)


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 50), min_size=1, max_size=24),
    likeness=st.floats(-1, 1),
    seed=st.integers(0, 999),
)
def test_every_word_is_in_one_group_and_groups_are_less_alike_than_was_asked(
    counts: list[int], likeness: float, seed: int
) -> None:
    judged = Counter({f"w{n}": count for n, count in enumerate(counts)})
    rows = np.random.default_rng(seed).normal(size=(len(counts), 5))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    proposed = propose(judged, vectors, attributes=len(counts), likeness=likeness)
    assert sorted(term for one in proposed for term in one.terms) == sorted(judged)
    assert sum(one.judged for one in proposed) == judged.total()
    place = {word: n for n, (word, _) in enumerate(judged.most_common())}

    def mean(one: Proposed) -> np.ndarray:
        weights = np.array([judged[term] for term in one.terms], float)
        return np.average(vectors[[place[term] for term in one.terms]].astype(float), axis=0, weights=weights)

    for n, one in enumerate(proposed):
        assert all(mean(one) @ mean(other) < likeness + 1e-6 for other in proposed[n + 1 :])


def test_what_is_proposed_is_read_again_with_other_behind_it() -> None:
    proposed = [Proposed(("tone", "sound: warm", "Ü"), 7), Proposed(("yes", "no", "1"), 3)]
    assert read(written(proposed, 20)) == (
        Attribute("tone", ("tone", "sound: warm", "ü")),
        Attribute("yes", ("yes", "no", "1")),
        Attribute("other", ()),
    )
    assert "# 35.0% of what was judged" in written(proposed, 20)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- name: [", "no YAML"),
        ("name: sound", "no list"),
        ("[]", "no list"),
        ("- sound", "attribute 1 has other fields"),
        ("- {name: sound, words: [tone]}", "attribute 1 has other fields"),
        ("- {terms: [tone]}", "attribute 1 has no name"),
        ("- {name: sound, terms: tone}", "the terms of 'sound' are no list"),
        ("- {name: sound, terms: [1]}", "the terms of 'sound' are no list"),
        ("- {name: sound}", "'sound' has no terms"),
        ("- {name: sound, terms: [tone]}\n- {name: Sound, terms: [hum]}", "'sound' is named 2 times"),
        ("- {name: sound, terms: [tone]}\n- {name: voice, terms: [Tone]}", "the term 'tone' is of 'sound' and of 'voice'"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_set_is_refused_with_what_to_change(text: str, says: str) -> None:
    with pytest.raises(BadAttributes, match=says):
        discovery.read(text)


def test_other_need_not_be_named_and_has_no_terms() -> None:
    assert read("- {name: sound, terms: [tone]}\n- {name: other, terms: []}")[-1] == Attribute("other", ())
