"""services/extractor/reviews.py, items.py, service.py: every review is published, every item with a text embedded."""

from collections.abc import Callable
from typing import Any

import pytest

from services.extractor import metrics
from services.extractor.extraction import Extraction
from services.extractor.findings import Finding, NothingUsable
from services.extractor.items import Items
from services.extractor.reviews import Reviews
from services.extractor.service import ExtractorService
from services.extractor.settings import ExtractorSettings
from services.extractor.vectors import Vectors
from shared import events, topics
from shared.errors import InvalidRequest, Unavailable
from shared.events import Item, ItemSemantics, Opinions, Review
from shared.pb.finestream.v1 import extractor_pb2
from tests.services.extractor.doubles import Saying, Sent, count, delivered

TEXT = "The battery dies fast but the screen is gorgeous."
SPACE = "minilm-general-v1"


def review(number: int, text: str = TEXT, title: str = "A phone") -> Review:
    return Review(review_id=f"r{number}", user_id="u", item_id="i", ts=1.6e9, text=text, title=title, rating=4.0)


def reviews_of(extraction: Extraction, vectors: Vectors, sent: Sent) -> Reviews:
    return Reviews(extraction, vectors, sent, ExtractorSettings(version=7), SPACE)


async def test_a_review_becomes_opinions_with_its_source(offline: Extraction, vectors: Vectors) -> None:
    sent = Sent()
    delivery = delivered(review(1), offset=41)
    assert await reviews_of(offline, vectors, sent)([delivery]) == []
    [(topic, opinions)] = sent.events
    assert topic == topics.OPINIONS
    assert isinstance(opinions, Opinions)
    assert opinions.source == delivery.source
    assert (opinions.review_id, opinions.user_id, opinions.item_id, opinions.ts, opinions.rating) == (
        "r1", "u", "i", 1.6e9, 4.0,
    )  # fmt: skip
    assert (opinions.extractor_version, opinions.space) == (7, SPACE)
    assert [(p.attribute, p.polarity, p.quote) for p in opinions.pairs] == [
        ("performance", -1, "battery dies fast"),
        ("appearance", 1, "screen is gorgeous"),
    ]
    assert all(TEXT[p.start : p.end] == p.quote and len(p.vector) == 8 for p in opinions.pairs)
    assert len(opinions.vector) == 384
    assert events.decode(topics.OPINIONS, events.encode(opinions)) == opinions


async def test_every_review_is_published_in_order_whatever_its_provider_answers(
    extraction_by: Callable[..., Extraction], vectors: Vectors
) -> None:
    answers: dict[str, list[Finding] | NothingUsable | Unavailable] = {
        "good": [Finding("price", "good", 1, "good")],
        "none": [],
        "lies": [Finding("price", "bad", -1, "not in it")],
        "refused": NothingUsable("refusal"),
        "auf Deutsch": NothingUsable("unsupported_language"),
    }
    failed, unsupported = count(metrics.REVIEWS, "failed"), count(metrics.REVIEWS, "unsupported")
    sent = Sent()
    deliveries = [delivered(review(n, text), n) for n, text in enumerate(answers)]
    await reviews_of(extraction_by(Saying(answers)), vectors, sent)(deliveries)
    published = [event for _, event in sent.events if isinstance(event, Opinions)]
    assert [event.source.offset for event in published] == [0, 1, 2, 3, 4]
    assert [len(event.pairs) for event in published] == [1, 0, 0, 0, 0]
    assert all(len(event.vector) == 384 for event in published)
    assert count(metrics.REVIEWS, "failed") == failed + 1
    assert count(metrics.REVIEWS, "unsupported") == unsupported + 1


async def test_a_batch_that_must_wait_publishes_nothing_and_succeeds_later(
    extraction_by: Callable[..., Extraction], vectors: Vectors
) -> None:
    provider = Saying({TEXT: Unavailable("away")})
    sent = Sent()
    handle = reviews_of(extraction_by(provider), vectors, sent)
    with pytest.raises(Unavailable):
        await handle([delivered(review(1))])
    assert sent.events == []
    provider.answers = {}
    sent.failures = 1
    with pytest.raises(Unavailable):
        await handle([delivered(review(1))])
    await handle([delivered(review(1))])
    assert len(sent.events) == 1


async def test_the_hash_and_the_vector_follow_title_and_text(offline: Extraction, vectors: Vectors) -> None:
    sent = Sent()
    variants = [review(1), review(2), review(3, title="A guitar"), review(4, text="Another text, nice.")]
    await reviews_of(offline, vectors, sent)([delivered(variant) for variant in variants])
    published = [event for _, event in sent.events if isinstance(event, Opinions)]
    assert published[0].content_hash == published[1].content_hash
    assert published[0].vector == published[1].vector
    assert len({event.content_hash for event in published}) == 3
    assert len({event.vector for event in published}) == 3


async def test_an_item_is_known_by_its_words(vectors: Vectors) -> None:
    sent = Sent()
    strings = Item(
        item_id="a", ts=1.6e9, title="Bass strings", brand="Acme", categories=["Strings"], description="Bronze"
    )
    bare = Item(item_id="b", ts=1.6e9, available=False)
    without = count(metrics.ITEMS, "no_text")
    handle = Items(vectors, sent, ExtractorSettings(), SPACE)
    delivery = delivered(strings, 5)
    assert await handle([delivery, delivered(bare, 6)]) == []
    [(topic, semantics)] = sent.events
    assert topic == topics.ITEM_SEMANTICS
    assert isinstance(semantics, ItemSemantics)
    assert (semantics.item_id, semantics.ts, semantics.space, semantics.source) == ("a", 1.6e9, SPACE, delivery.source)
    assert len(semantics.vector) == 384
    assert count(metrics.ITEMS, "no_text") == without + 1


async def test_a_long_description_is_bounded(vectors: Vectors) -> None:
    sent = Sent()
    long = Item(item_id="a", ts=1.6e9, title="Bass strings", description="bronze " * 4000)
    await Items(vectors, sent, ExtractorSettings(), SPACE)([delivered(long)])
    assert len(sent.events) == 1


async def extract(service: ExtractorService, text: str) -> Any:
    return await service.Extract(extractor_pb2.ExtractRequest(text=text), None)


async def test_extract_answers_pairs_and_who_made_them(offline: Extraction) -> None:
    answer = await extract(ExtractorService(offline, 3), TEXT)
    assert [(p.attribute, p.opinion, p.polarity, TEXT[p.start : p.end] == p.quote) for p in answer.pairs] == [
        ("performance", "dies fast", extractor_pb2.POLARITY_NEGATIVE, True),
        ("appearance", "gorgeous", extractor_pb2.POLARITY_POSITIVE, True),
    ]
    assert answer.extractor == "rules/test v3"


async def test_places_are_code_points_not_bytes(offline: Extraction) -> None:
    text = "👍🏽 Très bien! The sound is great!"
    [pair] = (await extract(ExtractorService(offline, 1), text)).pairs
    assert text[pair.start : pair.end] == pair.quote == "sound is great"


@pytest.mark.parametrize(
    ("text", "says"), [("", "empty"), (" \n", "empty"), ("x" * 40_000, "40000 bytes"), ("é" * 20_000, "40000 bytes")]
)
async def test_no_text_and_too_much_of_it_are_refused(offline: Extraction, text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        await extract(ExtractorService(offline, 1), text)
    assert caught.value.field == "text"
