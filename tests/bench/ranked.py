"""A ranking service with a catalogue of 10,000 items, as the cluster runs it: broker, graph_updater and ranking.

500 users have 50 interactions and 8 reviews with two pairs each. All of it goes through Kafka and graph_updater. The
model is finestream's network at its default size with the weights that it starts a training with: what a request
costs does not depend on what they are.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch

from shared import bundle, events, space, topics
from shared.events import Event, Interaction, Item, ItemSemantics, Opinions, Pair, Source
from shared.graph.state import MAX_INTERACTIONS
from shared.models.features import Schema
from shared.models.finestream import Finestream
from shared.models.finestream_network import Config, Network
from shared.models.neighbours import Neighbours
from shared.space import Space
from tests.bench.cores import pinned
from tests.bench.filled import PARTITIONS, broker
from tests.parts import Raw
from tests.running import Running

USERS, ITEMS, REVIEWS = 500, 10_000, 8
BEGAN: Final = 1.6e9
FILL_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Ranked:
    service: Running
    bootstrap: str  # the broker's
    publish: Callable[[], str]  # the same model once more; its version


@contextmanager
def ranking(server: set[int], others: set[int], **environment: str) -> Iterator[Ranked]:
    """The warm service on the cores `server`, everything that it needs on `others`."""
    with tempfile.TemporaryDirectory(prefix="finestream-bench-") as name, pinned(others):
        folder, definition = Path(name), space.load()
        with broker(facts(definition)) as bootstrap:
            shared = {"FINESTREAM_KAFKA_BOOTSTRAP": bootstrap, "FINESTREAM_KAFKA_PARTITIONS": str(PARTITIONS)}
            publish = partial(bundle.publish, str(folder / "bundles"), model(folder, definition), meta(definition))
            publish()
            graph = Running("graph_updater", folder, **shared, FINESTREAM_QDRANT_PATH=str(folder / "qdrant"))
            try:
                _filled(graph.ready())
                with pinned(server):
                    service = Running(
                        "ranking", folder, **shared, FINESTREAM_GRAPH_ADDRESS=graph.grpc_address,
                        FINESTREAM_BUNDLES_URL=str(folder / "bundles"),
                        FINESTREAM_RANKING_BUNDLE_CACHE=str(folder / "cache"), **environment,
                    )  # fmt: skip
                try:
                    _warm(service.ready())
                    yield Ranked(service, bootstrap, publish)
                finally:
                    service.stop()
            finally:
                graph.stop()


def facts(definition: Space, seed: int = 1) -> dict[str, list[Raw]]:
    """By topic: every item described, every user with a full history of different items."""
    chance, noise = random.Random(seed), np.random.default_rng(seed)

    def vector(size: int) -> bytes:
        return noise.integers(-127, 127, size, dtype=np.int8).tobytes()

    def pair() -> Pair:
        name = chance.choice(definition.attribute_names)
        return Pair(name, "good enough", vector(definition.opinion_dim), 1, 0, 40, "a quote of some forty characters")

    made: dict[str, list[Raw]] = {}
    for n in range(ITEMS):
        item, ts, source = item_name(n), BEGAN + n, Source(topics.ITEMS, 0, n, BEGAN)
        _add(made, topics.ITEMS, Item(item_id=item, ts=ts, title=f"Item {n}", categories=[f"c{n % 20}"]))
        meaning = ItemSemantics(
            item_id=item, ts=ts, space=definition.name, extractor_version=1, content_hash="0" * 32,
            vector=vector(definition.embedding_dim), source=source,
        )  # fmt: skip
        _add(made, topics.ITEM_SEMANTICS, meaning)
    for number in range(USERS):
        user, met = user_name(number), chance.sample(range(ITEMS), MAX_INTERACTIONS)
        for at, n in enumerate(met):
            click = Interaction(event_id=f"{user}-{at}", user_id=user, item_id=item_name(n), ts=BEGAN + at)
            _add(made, topics.INTERACTIONS, click)
        for at, n in enumerate(met[:REVIEWS]):
            told = Opinions(
                review_id=f"{user}-r{at}", user_id=user, item_id=item_name(n), ts=BEGAN + at, extractor="bench",
                extractor_version=1, content_hash="0" * 32, space=definition.name, pairs=[pair(), pair()],
                vector=vector(definition.embedding_dim), source=Source(topics.REVIEWS, 0, number, BEGAN),
            )  # fmt: skip
            _add(made, topics.OPINIONS, told)
    return made


def user_name(number: int) -> str:
    return f"user-{number:04}"


def item_name(number: int) -> str:
    return f"item-{number:05}"


def _add(made: dict[str, list[Raw]], topic: str, event: Event) -> None:
    made.setdefault(topic, []).append(Raw(events.key_of(event), events.encode(event)))


def model(folder: Path, definition: Space) -> Path:
    """The folder of a model of which nothing is trained."""
    torch.manual_seed(1)
    config = Config(Schema(definition.embedding_dim, definition.opinion_dim, tuple(definition.attribute_names)))
    ids = [item_name(n) for n in range(ITEMS)]
    network = Network(config, len(ids))
    network.fit_content(torch.randn(1_000, definition.embedding_dim))
    factors = torch.randn(len(ids) + 1, config.rank) / config.rank**0.5
    nothing = torch.zeros(definition.embedding_dim)
    near = Neighbours(factors, nothing, torch.zeros(definition.embedding_dim, config.rank), config.sure)
    (folder / "model").mkdir()
    Finestream(definition.name, config, ids, network, near).save(folder / "model")
    return folder / "model"


def meta(definition: Space) -> bundle.Meta:
    return bundle.Meta(kind=Finestream.kind, space=definition.name, data_from=BEGAN, data_timestamp=BEGAN)


def _filled(graph: Running) -> None:
    """Until every fact is in both of its nodes: each one's edge comes last."""
    done, edges = "finestream_stream_records_total", USERS * (MAX_INTERACTIONS + REVIEWS)
    expected = {topics.ITEM_EDGES: edges, topics.ITEMS: ITEMS, topics.ITEM_SEMANTICS: ITEMS}
    _until(lambda: all(graph.metric(done, stream="items", topic=t) >= n for t, n in expected.items()), "graph_updater")


def _warm(service: Running) -> None:
    def whole() -> bool:
        rows = service.metric("finestream_ranking_table_items")
        return rows == ITEMS and not service.metric("finestream_ranking_pending_items")

    _until(whole, "ranking")


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + FILL_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not take all events in {FILL_SECONDS:g} s"
        time.sleep(POLL_SECONDS)
