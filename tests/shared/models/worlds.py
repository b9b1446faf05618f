"""Small made-up logs and states for the models' tests: a space of 12 numbers a text, 4 an opinion, 3 attributes."""

import random

import numpy as np

from shared.events import Event, Interaction, ItemSemantics, Opinions, Pair, Source
from shared.graph.fold import edges_of, fold_item, fold_user
from shared.graph.state import ItemNode, UserState
from shared.models.features import Schema
from shared.models.finestream_network import Config
from shared.space import quantise

SPACE = "test-space"
ATTRIBUTES = ("sound", "price", "other")
SCHEMA = Schema(12, 4, ATTRIBUTES)
CONFIG = Config(SCHEMA, d=16, longest=8, rank=4)
START, DAY = 1.6e9, 86_400.0
SOURCE = Source("interactions", 0, 0, 0.0)


def vector(rng: random.Random, dim: int, centre: int | None = None) -> bytes:
    """A random direction, or one near axis `centre`."""
    values = np.array([[rng.gauss(0, 1) for _ in range(dim)]], np.float32)
    if centre is not None:
        values *= 0.15
        values[0, centre] += 1.0
    return quantise(values)[0]


def interaction(user: str, item: str, ts: float, event_id: str | None = None) -> Interaction:
    return Interaction(event_id=event_id or f"{user}:{item}:{ts}", user_id=user, item_id=item, ts=ts)


def opinions(rng: random.Random, user: str, item: str, ts: float, pairs: int = 2, space: str = SPACE) -> Opinions:
    said = [
        Pair(rng.choice(ATTRIBUTES), "word", vector(rng, 4), rng.choice((-1, 0, 1)), 0, 4, "word") for _ in range(pairs)
    ]
    return Opinions(
        review_id=f"r:{user}:{item}", user_id=user, item_id=item, ts=ts, extractor="test", extractor_version=1,
        content_hash=f"{ts}", space=space, pairs=said, vector=vector(rng, 12), source=SOURCE,
    )  # fmt: skip


def semantics(item: str, data: bytes, ts: float = START, space: str = SPACE) -> ItemSemantics:
    return ItemSemantics(
        item_id=item, ts=ts, space=space, extractor_version=1, content_hash="h", vector=data, source=SOURCE
    )


def states(seed: int = 0, users: int = 6, items: int = 10) -> tuple[list[UserState], list[ItemNode]]:
    """States with histories and opinions, joined from the same facts on both sides."""
    rng = random.Random(seed)
    held = {f"u{u}": UserState(f"u{u}") for u in range(users)}
    nodes = {f"i{i}": ItemNode(f"i{i}") for i in range(items)}
    for u in range(users):
        for n in range(rng.randint(2, 6)):
            user, item, ts = f"u{u}", f"i{rng.randrange(items)}", START + n * DAY
            for fact in (interaction(user, item, ts), opinions(rng, user, item, ts, pairs=3)):
                held[user] = fold_user(held[user], [fact])
                nodes[item] = fold_item(nodes[item], [edges_of(fact, SOURCE)])
    for item in list(nodes)[::2]:
        nodes[item] = fold_item(nodes[item], [semantics(item, vector(rng, 12))])
    return list(held.values()), list(nodes.values())


def tastes(seed: int = 0, users: int = 120, items: int = 60, groups: int = 4, each: int = 8) -> list[Event]:
    """A log in which a user meets items of their own group only, all items equally often: popularity is blind."""
    rng = random.Random(seed)
    events: list[Event] = [semantics(f"i{i}", vector(rng, 12, i % groups), START - DAY) for i in range(items)]
    for u in range(users):
        own = [i for i in range(items) if i % groups == u % groups]
        for i in rng.sample(own, each):
            ts = START + rng.random() * 300 * DAY
            events.append(interaction(f"u{u}", f"i{i}", ts))
            if rng.random() < 0.4:
                events.append(opinions(rng, f"u{u}", f"i{i}", ts))
    return events


def noise(seed: int = 0, users: int = 120, items: int = 60, each: int = 8) -> list[Event]:
    """A log without anything to learn: everyone meets items by chance."""
    return tastes(seed, users, items, groups=1, each=each)
