"""services/extractor/extraction.py: pairs are proven, chosen, embedded, and asked for once."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.extractor import metrics
from services.extractor.cache import Cache
from services.extractor.extraction import Extraction, Proven, choose
from services.extractor.findings import Finding, NothingUsable
from services.extractor.vectors import Vectors
from shared.errors import Unavailable
from shared.space import dequantise
from tests.services.extractor.doubles import Saying, count

Make = Callable[..., Extraction]
TEXT = "The sound is warm, the strap broke, the price is fair, the box was late and the look is odd."


def finding(quote: str, aspect: str = "sound", opinion: str = "warm", strength: float = 1.0) -> Finding:
    return Finding(aspect, opinion, 1, quote, strength=strength)


async def test_what_is_not_in_the_text_is_dropped_and_counted(extraction_by: Make) -> None:
    before = count(metrics.DROPPED, "quote_not_found"), count(metrics.DROPPED, "no_opinion")
    provider = Saying({TEXT: [finding("sound is warm"), finding("dies fast"), finding("warm", opinion=" \x00 ")]})
    [extracted] = await extraction_by(provider).pairs([TEXT])
    assert [pair.quote for pair in extracted.pairs] == ["sound is warm"]
    assert count(metrics.DROPPED, "quote_not_found") == before[0] + 1
    assert count(metrics.DROPPED, "no_opinion") == before[1] + 1


async def test_at_most_four_are_kept_the_strongest_of_each_attribute_first(extraction_by: Make) -> None:
    found = [
        finding("sound is warm", "sound", "warm", 3.0),
        finding("sound", "sound", "bright", 2.9),
        finding("strap broke", "strap", "broke", 2.5),
        finding("price is fair", "price", "fair", 0.5),
        finding("box was late", "box", "late", 1.0),
        finding("look is odd", "look", "odd", 0.4),
    ]
    [extracted] = await extraction_by(Saying({TEXT: found})).pairs([TEXT])
    assert [pair.phrase for pair in extracted.pairs] == ["warm", "broke", "fair", "late"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["sound", "price", "other"]),
            st.builds(
                Proven, st.just(""), st.sampled_from(["good", "bad", "warm"]), st.sampled_from([-1, 0, 1]),
                st.integers(0, 9), st.integers(10, 20), st.floats(0, 4),
            ),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_what_is_chosen_is_of_what_was_found_distinct_and_in_the_order_of_the_text(
    found: list[tuple[str, Proven]],
) -> None:
    kept = choose(found)
    distinct = {(name, proven.phrase) for name, proven in found}
    assert len(kept) == min(4, len(distinct))
    assert all(one in found for one in kept)
    assert len({(name, proven.phrase) for name, proven in kept}) == len(kept)
    assert [one[1].start for one in kept] == sorted(one[1].start for one in kept)
    if found:
        strongest = max(proven.strength for _, proven in found)
        assert any(proven.strength == strongest for _, proven in kept)
    if len({name for name, _ in found}) <= 4:
        assert {name for name, _ in kept} == {name for name, _ in found}


async def test_equal_texts_are_asked_for_once_failures_too(extraction_by: Make) -> None:
    provider = Saying({TEXT: [finding("sound is warm")], "bad": NothingUsable("refusal")})
    extraction = extraction_by(provider)
    answers = await extraction.pairs([TEXT, "bad", TEXT])
    assert answers[0] == answers[2]
    assert answers[1].failure == "refusal"
    await extraction.pairs(["bad", TEXT])
    assert provider.asked == [TEXT, "bad"]


async def test_without_a_cache_everything_is_still_answered(extraction_by: Make) -> None:
    provider = Saying({TEXT: [finding("sound is warm")]})
    extraction = extraction_by(provider, cached_texts=0)
    await extraction.pairs([TEXT])
    [extracted] = await extraction.pairs([TEXT])
    assert len(extracted.pairs) == 1
    assert provider.asked == [TEXT, TEXT]


async def test_one_text_that_must_wait_raises_but_the_others_are_remembered(extraction_by: Make) -> None:
    provider = Saying({TEXT: [finding("sound is warm")], "wait": Unavailable("away")})
    extraction = extraction_by(provider)
    with pytest.raises(Unavailable):
        await extraction.pairs([TEXT, "wait"])
    provider.answers["wait"] = []
    assert [len(extracted.pairs) for extracted in await extraction.pairs([TEXT, "wait"])] == [1, 0]
    assert provider.asked == [TEXT, "wait", "wait"]
    assert await extraction.pairs([]) == []


async def test_opposite_opinions_point_away_from_each_other(vectors: Vectors) -> None:
    texts = ["loud: positive", "not loud: negative", "really loud: positive", "dies fast: negative"]
    loud, not_loud, really_loud, dies = (dequantise(vector) for vector in await vectors.opinions(texts))
    assert np.linalg.norm(loud) == pytest.approx(1.0, abs=0.02)
    assert loud @ really_loud > 0.8
    assert loud @ not_loud < 0.3
    assert not_loud @ dies > loud @ dies


async def test_text_vectors_are_of_the_spaces_dimension_and_the_same_from_the_cache(vectors: Vectors) -> None:
    [first, other] = await vectors.texts(["a warm tone", "a broken strap"], 24)
    [again] = await vectors.texts(["a warm tone"], 24)
    assert len(first) == 384
    assert first == again != other


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 5), st.lists(st.integers(0, 9), max_size=50))
def test_a_cache_is_bounded_and_holds_what_was_used_last(size: int, keys: list[int]) -> None:
    cache: Cache[int, int] = Cache(size)
    recent: list[int] = []
    for key in keys:
        assert cache.get(key) == (key if key in recent else None)
        cache.put(key, key)
        recent = [*[k for k in recent if k != key], key][-size:] if size else []
        assert len(cache) == len(recent)
