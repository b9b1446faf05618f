"""services/extractor/attributes.py: whatever is judged, its attribute is one of the set."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.extractor.attributes import Attributes
from services.extractor.quotes import clean
from shared.space import Space


@pytest.mark.parametrize(
    ("aspect", "opinion", "name"),
    [
        ("battery", "dies fast", "performance"),
        ("screen", "gorgeous", "appearance"),
        ("sound quality", "good", "quality"),
        ("tones", "warm", "sound"),
        ("customer service", "rude", "service and delivery"),
        ("", "easy to use", "ease of use"),
        ("product", "overpriced", "price"),
        ("guitar", "sturdy", "durability"),
        ("sound", "not loud enough", "sound"),
        ("", "great", "other"),
        ("item", "great", "other"),
        ("price", "great", "price"),
        ("service and delivery", "slow", "service and delivery"),  # a name of the set, as an LLM answers
        ("other", "great", "other"),
        ("odour", "awful", "taste and scent"),  # by likeness alone
        ("loudness", "awful", "sound"),
        ("xylzq", "great", "other"),
    ],
)
async def test_an_aspect_is_named_by_its_terms_then_by_likeness(
    attributes: Attributes, aspect: str, opinion: str, name: str
) -> None:
    assert await attributes([(aspect, opinion)]) == [name]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(max_size=64), st.text(max_size=64)), max_size=4))
async def test_any_words_get_a_name_of_the_set(
    attributes: Attributes, general: Space, judged: list[tuple[str, str]]
) -> None:
    cleaned = [(clean(aspect, 64), clean(opinion, 64)) for aspect, opinion in judged]
    names = await attributes(cleaned)
    assert len(names) == len(cleaned)
    assert set(names) <= set(general.attribute_names)
