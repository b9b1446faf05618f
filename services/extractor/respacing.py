"""What a fact of one space is in another: its words embedded again, its attributes named as they are there."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from services.extractor.items import Items
from services.extractor.main import Embedding
from services.extractor.review_texts import ReviewTexts
from services.extractor.reviews import embedded_text
from services.extractor.senders import Sender
from services.extractor.settings import ExtractorSettings
from shared import topics
from shared.batches import Delivery
from shared.events import Erasure, Event, InteractionEdge, Item, Opinions, Pair, Review, ReviewEdge, content_hash
from shared.graph import fold
from shared.jobs import patiently
from shared.projection import opinion_text
from shared.whole_log import Log, event_of

WHOLE: Final = (topics.ERASURES, topics.REVIEWS)  # always from the start: what is looked up
DERIVED: Final = (topics.ITEMS, topics.OPINIONS, topics.ITEM_EDGES)
E = TypeVar("E", bound=Event)


class Report(Struct):
    """What was written. `without_text`: opinions whose review is nowhere any more, so that they have no vector."""

    items: int = 0
    opinions: int = 0
    edges: int = 0
    without_text: int = 0
    went_on: bool = False  # from where an earlier run had got to
    holes: list[str] = []  # stretches of the log that are nowhere any more, a sentence each
    unplaced: list[str] = []  # partitions that the new extractor reads from their beginning: nobody knows better
    seconds: float = 0.0


class Respacing:
    """One run over a log of the other space. Raises as its sender does."""

    def __init__(self, to: Embedding, texts: ReviewTexts, sender: Sender, settings: ExtractorSettings) -> None:
        self._to = to
        self._texts = texts
        self._sender = sender
        self._settings = settings
        self._items = Items(to.vectors, sender, settings, to.space.name)
        self._names = frozenset(to.space.attribute_names)
        self._erased: dict[str, float] = {}
        self.report = Report()

    async def run(self, whole: Log, tell: Callable[[int], None]) -> None:
        """What is looked up comes first: who is erased, and the reviews' texts."""
        steps = {
            topics.ERASURES: self._keep_erasures,
            topics.REVIEWS: self._keep_texts,
            topics.ITEMS: self._embed_items,
            topics.OPINIONS: self._embed_opinions,
            topics.ITEM_EDGES: self._copy_edges,
        }
        for topic, step in steps.items():
            async for chunk in whole.chunks([topic]):
                found = [Delivery(event, r.source) for r in chunk if (event := event_of(r)) is not None]
                for start in range(0, len(found), self._settings.batch_size):
                    await patiently(partial(step, found[start : start + self._settings.batch_size]))
                tell(len(chunk))

    async def _keep_erasures(self, found: Sequence[Delivery]) -> None:
        for erasure in _events(found, Erasure):
            self._erased[erasure.user_id] = max(erasure.erased_at, self._erased.get(erasure.user_id, 0.0))

    def _stands(self, fact: Review | Opinions) -> bool:
        return fact.ts > self._erased.get(fact.user_id, 0.0)

    async def _keep_texts(self, found: Sequence[Delivery]) -> None:
        chars, reviews = self._settings.review_chars, filter(self._stands, _events(found, Review))
        self._texts.keep((content_hash(r.title, r.text), embedded_text(r, chars)) for r in reviews)

    async def _embed_items(self, found: Sequence[Delivery]) -> None:
        await self._items(found)
        self.report.items += len(_events(found, Item))

    async def _embed_opinions(self, found: Sequence[Delivery]) -> None:
        """The opinions in the new space, and their side of the items, which is made of nothing else."""
        before = [event for event in _events(found, Opinions) if self._stands(event)]
        pairs, vectors = await self._pairs(before), await self._vectors(before)
        after = [
            msgspec.structs.replace(event, space=self._to.space.name, pairs=own, vector=vector)
            for event, own, vector in zip(before, pairs, vectors, strict=True)
        ]
        sources = await self._sender.send_all([(topics.OPINIONS, event) for event in after])
        edges = [fold.edges_of(event, source) for event, source in zip(after, sources, strict=True)]
        await self._sender.send_all([(topics.ITEM_EDGES, edge) for edge in edges])
        self.report.opinions += len(after)
        self.report.edges += len(edges)
        self.report.without_text += sum(bool(old.vector) and not new for old, new in zip(before, vectors, strict=True))

    async def _copy_edges(self, found: Sequence[Delivery]) -> None:
        blanks = [edge for edge in _events(found, ReviewEdge) if edge.erased_at]
        edges: list[InteractionEdge | ReviewEdge] = [*_events(found, InteractionEdge), *blanks]
        await self._sender.send_all([(topics.ITEM_EDGES, edge) for edge in edges])
        self.report.edges += len(edges)

    async def _pairs(self, opinions: Sequence[Opinions]) -> list[list[Pair]]:
        pairs = [pair for event in opinions for pair in event.pairs]
        phrases = [opinion_text(pair.phrase, pair.polarity) for pair in pairs]
        vectors = await self._to.vectors.opinions(phrases) if phrases else []
        made = iter(
            msgspec.structs.replace(pair, attribute=name, vector=vector)
            for pair, name, vector in zip(pairs, await self._attributes(pairs), vectors, strict=True)
        )
        return [[next(made) for _ in event.pairs] for event in opinions]

    async def _attributes(self, pairs: Sequence[Pair]) -> list[str]:
        """A name that both spaces have stays; another is looked for with the old name for the aspect."""
        other = [(pair.attribute.replace("_", " "), pair.phrase) for pair in pairs if pair.attribute not in self._names]
        found = iter(await self._to.attributes(other) if other else ())
        return [pair.attribute if pair.attribute in self._names else next(found) for pair in pairs]

    async def _vectors(self, opinions: Sequence[Opinions]) -> list[bytes]:
        """Of the reviews' texts; empty where there was none, or the text is nowhere any more."""
        text_of = self._texts.find([event.content_hash for event in opinions if event.vector])
        hashes = list(text_of)
        vectors = await self._to.vectors.texts([text_of[h] for h in hashes], self._settings.review_tokens)
        vector_of = dict(zip(hashes, vectors, strict=True))
        return [vector_of.get(event.content_hash, b"") if event.vector else b"" for event in opinions]


def _events(found: Sequence[Delivery], kind: type[E]) -> list[E]:
    return [d.event for d in found if isinstance(d.event, kind)]
