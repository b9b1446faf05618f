"""The handler of `items`: every item with a text becomes ItemSemantics."""

from collections.abc import Sequence

from services.extractor import metrics
from services.extractor.senders import Sender
from services.extractor.settings import ExtractorSettings
from services.extractor.vectors import Vectors
from shared import topics
from shared.events import Item, ItemSemantics, content_hash
from shared.streams import Delivery, Refused


class Items:
    def __init__(self, vectors: Vectors, sender: Sender, settings: ExtractorSettings, space: str) -> None:
        self._vectors = vectors
        self._sender = sender
        self._settings = settings
        self._space = space

    async def __call__(self, deliveries: Sequence[Delivery]) -> Sequence[Refused]:
        """Returns when the semantics of all are in Kafka. Raises Unavailable to be called again with the same."""
        read = [(d.event, d, text_of(d.event)) for d in deliveries if isinstance(d.event, Item)]
        told = [(item, delivery, text[: self._settings.item_chars]) for item, delivery, text in read if text]
        vectors = await self._vectors.texts([text for _, _, text in told], self._settings.item_tokens)
        semantics = [
            self._semantics(item, delivery, text, vector)
            for (item, delivery, text), vector in zip(told, vectors, strict=True)
        ]
        await self._sender.send_all([(topics.ITEM_SEMANTICS, event) for event in semantics])
        metrics.ITEMS.labels("embedded").inc(len(told))
        metrics.ITEMS.labels("no_text").inc(len(read) - len(told))
        return []

    def _semantics(self, item: Item, delivery: Delivery, text: str, vector: bytes) -> ItemSemantics:
        return ItemSemantics(
            item_id=item.item_id,
            ts=item.ts,
            space=self._space,
            extractor_version=self._settings.version,
            content_hash=content_hash(text),
            vector=vector,
            source=delivery.source,
        )


def text_of(item: Item) -> str:
    """The item in words, what tells most first; empty where it has none."""
    parts = (item.title, item.brand, ", ".join(item.categories), item.description)
    return ". ".join(part.strip() for part in parts if part.strip())
