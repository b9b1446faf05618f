"""The handler of `reviews`: every review becomes Opinions, with pairs or none."""

from collections.abc import Sequence

from services.extractor import metrics
from services.extractor.extraction import Extracted, Extraction
from services.extractor.senders import Sender
from services.extractor.settings import ExtractorSettings
from services.extractor.vectors import Vectors
from shared import topics
from shared.events import Opinions, Review, content_hash
from shared.streams import Delivery, Refused


class Reviews:
    def __init__(
        self, extraction: Extraction, vectors: Vectors, sender: Sender, settings: ExtractorSettings, space: str
    ) -> None:
        self._extraction = extraction
        self._vectors = vectors
        self._sender = sender
        self._settings = settings
        self._space = space

    async def __call__(self, deliveries: Sequence[Delivery]) -> Sequence[Refused]:
        """Returns when the opinions of all are in Kafka. Raises Unavailable to be called again with the same."""
        read = [(d.event, d) for d in deliveries if isinstance(d.event, Review)]
        extracted = await self._extraction.pairs([review.text for review, _ in read])
        vectors = await self._vectors.texts(
            [embedded_text(review, self._settings.review_chars) for review, _ in read], self._settings.review_tokens
        )
        opinions = [
            self._opinions(review, delivery, found, vector)
            for (review, delivery), found, vector in zip(read, extracted, vectors, strict=True)
        ]
        await self._sender.send_all([(topics.OPINIONS, event) for event in opinions])
        for found in extracted:
            _count(found)
        return []

    def _opinions(self, review: Review, delivery: Delivery, found: Extracted, vector: bytes) -> Opinions:
        return Opinions(
            review_id=review.review_id,
            user_id=review.user_id,
            item_id=review.item_id,
            ts=review.ts,
            rating=review.rating,
            extractor=found.extractor,
            extractor_version=self._settings.version,
            content_hash=content_hash(review.title, review.text),
            space=self._space,
            pairs=list(found.pairs),
            vector=vector,
            source=delivery.source,
        )


def embedded_text(review: Review, chars: int) -> str:
    """What the review is known by: its title and how it begins, which is where reviews say what the thing is."""
    return f"{review.title}. {review.text[:chars]}" if review.title else review.text[:chars]


def _count(found: Extracted) -> None:
    metrics.REVIEWS.labels(_outcome(found)).inc()
    for pair in found.pairs:
        metrics.PAIRS.labels(metrics.POLARITY_NAMES[pair.polarity]).inc()


def _outcome(found: Extracted) -> str:
    if found.failure:
        return "unsupported" if found.failure == "unsupported_language" else "failed"
    return "pairs" if found.pairs else "empty"
