"""services/extractor/respacing.py: what one space knows is said in another, with nothing extracted again."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.extractor import respacing
from services.extractor.attributes import Attributes
from services.extractor.embeddings import LocalEmbeddings
from services.extractor.main import Embedding, stream_of
from services.extractor.respace import _place
from services.extractor.respacing import DERIVED, WHOLE, Respacing
from services.extractor.review_texts import ReviewTexts
from services.extractor.reviews import Reviews
from services.extractor.settings import ExtractorSettings
from services.extractor.vectors import Vectors
from shared import jobs, projection, topics
from shared.bookmark import bookmark
from shared.errors import Unavailable
from shared.events import Erasure, Event, InteractionEdge, Item, ItemSemantics, Opinions, Review, ReviewEdge, Source
from shared.graph import fold
from shared.kafka import group_of
from shared.projection import Projection
from shared.settings import KafkaSettings
from shared.space import Space
from shared.whole_log import Log
from tests.services.extractor.doubles import Sent
from tests.shared.verification.facts import BASE, MemoryTail

WIDTH = 6
TEXT = "The battery dies fast, but it is cheap."
SOURCE = Source(topics.REVIEWS, 0, 0, BASE)


def review(number: int, text: str = TEXT) -> Review:
    return Review(review_id=f"r{number}", user_id=f"u{number}", item_id="i", ts=BASE + number, text=text, rating=2.0)


@dataclass
class World:
    """The old space's log in lists, and the new space's words."""

    tail: MemoryTail
    to: Embedding
    texts: ReviewTexts
    url: str
    settings: ExtractorSettings
    sent: Sent

    async def respaced(self) -> Respacing:
        log = Log(self.url, self.tail, None, (*WHOLE, *DERIVED))  # type: ignore[arg-type]
        await log.start()
        work = Respacing(self.to, self.texts, self.sent, self.settings)
        await work.run(log, lambda _: None)
        return work

    def of(self, topic: str) -> list[Event]:
        return [event for name, event in self.sent.events if name == topic]

    @property
    def opinions(self) -> list[Opinions]:
        return [event for event in self.of(topics.OPINIONS) if isinstance(event, Opinions)]


@pytest.fixture
def world(local: LocalEmbeddings, general: Space, tmp_path: Path) -> World:
    fitted = projection.load(general)
    named = tuple(attribute for attribute in general.attributes if attribute.name != "price")
    defined = msgspec.structs.replace(general, name="new", opinion_dim=WIDTH, attributes=named)
    narrow = Projection(fitted.mean, fitted.components[:WIDTH])
    vectors = Vectors(local, narrow, cached_phrases=1000, cached_texts=1000)
    to = Embedding(defined, vectors, Attributes(defined, vectors, similarity=0.6, cached=1000), local)
    texts = ReviewTexts()
    return World(MemoryTail(), to, texts, str(tmp_path / "archive"), ExtractorSettings(batch_size=3), Sent())


@pytest.fixture
async def old(world: World, offline: object, vectors: Vectors, general: Space) -> list[Opinions]:
    """What the old space's extractor made of seven reviews."""
    made = Sent()
    reviews = [review(n, f"{TEXT} Number {n}.") for n in range(7)]
    world.tail.append(topics.REVIEWS, *reviews)
    await Reviews(offline, vectors, made, ExtractorSettings(), general.name)(  # type: ignore[arg-type]
        [respacing.Delivery(r, msgspec.structs.replace(SOURCE, offset=n)) for n, r in enumerate(reviews)]
    )
    opinions = [event for _, event in made.events if isinstance(event, Opinions)]
    world.tail.append(topics.OPINIONS, *opinions)
    return opinions


async def test_opinions_keep_everything_but_what_belongs_to_the_space(world: World, old: list[Opinions]) -> None:
    await world.respaced()
    assert len(world.opinions) == 7
    for before, after in zip(old, world.opinions, strict=True):
        assert before.pairs
        bare = [msgspec.structs.replace(p, attribute="", vector=b"") for p in before.pairs]
        assert [msgspec.structs.replace(p, attribute="", vector=b"") for p in after.pairs] == bare
        assert {len(p.vector) for p in after.pairs} == {WIDTH}
        assert after.vector == before.vector, "the embedding model is the same here, so the texts' vectors are"
        same = msgspec.structs.replace(after, space=before.space, pairs=before.pairs, vector=before.vector)
        assert same == before


async def test_an_attribute_that_is_gone_gets_another_name_and_the_others_stay(
    world: World, old: list[Opinions]
) -> None:
    await world.respaced()
    before = [pair.attribute for event in old for pair in event.pairs]
    after = [pair.attribute for event in world.opinions for pair in event.pairs]
    assert "price" in before
    assert all(new == was for was, new in zip(before, after, strict=True) if was != "price")
    assert set(after) <= set(world.to.space.attribute_names)


async def test_items_get_their_side_of_every_review_and_nothing_of_a_forgotten_one_comes_back(
    world: World, old: list[Opinions]
) -> None:
    click = InteractionEdge(item_id="i", ts=BASE, user_hash=5, source=SOURCE)
    blank = fold.blank_of("u3", "i", "r3", BASE + 3, BASE + 5, SOURCE)
    vectors = fold.edges_of(old[0], SOURCE)
    world.tail.append(topics.ITEM_EDGES, click, blank, vectors)
    work = await world.respaced()
    edges = world.of(topics.ITEM_EDGES)
    assert click in edges
    assert blank in edges
    assert vectors not in edges, "its vectors are of the old space"
    own = [edge for edge in edges if isinstance(edge, ReviewEdge) and not edge.erased_at]
    assert [edge.pairs for edge in own] == [event.pairs[:4] for event in world.opinions]
    assert work.report.edges == len(edges)


async def test_what_an_erased_user_said_is_not_said_again(world: World, old: list[Opinions]) -> None:
    world.tail.append(topics.ERASURES, Erasure(user_id="u2", erased_at=BASE + 2), Erasure(user_id="u5", erased_at=BASE))
    await world.respaced()
    assert [event.review_id for event in world.opinions] == ["r0", "r1", "r3", "r4", "r5", "r6"]
    own = [edge for edge in world.of(topics.ITEM_EDGES) if isinstance(edge, ReviewEdge)]
    assert {edge.user_id for edge in own}.isdisjoint({"u2"})


async def test_items_are_embedded_from_their_texts(world: World) -> None:
    world.tail.append(topics.ITEMS, Item(item_id="a", ts=BASE, title="A drum"), Item(item_id="b", ts=BASE))
    work = await world.respaced()
    [semantics] = world.of(topics.ITEM_SEMANTICS)
    assert isinstance(semantics, ItemSemantics)
    assert (semantics.item_id, semantics.space, len(semantics.vector)) == ("a", "new", 384)
    assert work.report.items == 2


async def test_opinions_whose_review_is_gone_are_kept_without_a_vector_and_counted(
    world: World, old: list[Opinions]
) -> None:
    world.tail.first[topics.REVIEWS] = 3
    work = await world.respaced()
    assert [bool(event.vector) for event in world.opinions] == [False] * 3 + [True] * 4
    assert all(event.pairs for event in world.opinions)
    assert work.report.without_text == 3


async def test_a_broker_that_does_not_answer_is_asked_again(
    world: World, old: list[Opinions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PAUSES", (0.0, 0.0))
    world.sent.failures = 2
    work = await world.respaced()
    assert work.report.opinions == len({event.review_id for event in world.opinions}) == 7
    world.sent.failures = 4
    with pytest.raises(Unavailable):
        await world.respaced()


@given(st.dictionaries(st.text(st.characters(codec="ascii"), min_size=1), st.text(st.characters()), max_size=20))
def test_texts_come_back_as_they_were_whatever_they_hold(kept: dict[str, str]) -> None:
    texts = ReviewTexts()
    texts.keep(kept.items())
    texts.keep((key, "another") for key in kept)
    assert texts.find([*kept, *kept, "unknown to it"]) == kept
    texts.close()


async def test_the_new_extractor_goes_where_each_run_got_to_until_it_has_read_for_itself(
    kafka_settings: KafkaSettings,
) -> None:
    settings = ExtractorSettings(kafka=kafka_settings)

    async def places() -> list[dict[int, int]]:
        groups = [group_of(kafka_settings, stream_of(topic)) for topic in (topics.REVIEWS, topics.ITEMS)]
        found = []
        for name, topic in zip(groups, (topics.REVIEWS, topics.ITEMS), strict=True):
            async with bookmark(kafka_settings, name) as group:
                found.append((await group.read([topic])).get(topic, {}))
        return found

    nothing = {topics.REVIEWS: {}, topics.ITEMS: dict.fromkeys(range(4), 0)}
    first = {topics.REVIEWS: {0: 5, 1: 2, 3: 1}, topics.ITEMS: dict.fromkeys(range(4), 3)}
    second = {topics.REVIEWS: {0: 9, 1: 2, 3: 4}, topics.ITEMS: dict.fromkeys(range(4), 4)}
    assert await _place(settings, {}, nothing) == [f"reviews {p}" for p in range(4)]
    assert await _place(settings, nothing, first) == ["reviews 2"]
    assert await places() == [first[topics.REVIEWS], first[topics.ITEMS]]
    assert await _place(settings, first, second) == ["reviews 2"]
    assert await places() == [second[topics.REVIEWS], second[topics.ITEMS]]
    await _place(settings, first, {name: dict.fromkeys(range(4), 99) for name in first})
    assert await places() == [second[topics.REVIEWS], second[topics.ITEMS]], "it is not where the last run put it"


@pytest.mark.parametrize(
    ("of", "said"), [("minilm-general-v1", "names the new space"), ("no-such-space", "--of no-such-space:")]
)
def test_a_wrong_space_is_one_line_and_exit_code_2(of: str, said: str) -> None:
    command = [sys.executable, "-m", "shared.cli.main", "respace", "--of", of]
    environment = {**os.environ, "FINESTREAM_SPACE_NAME": "minilm-general-v1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("finestream: ")
    assert said in line
