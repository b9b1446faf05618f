"""Test doubles of graph_updater's neighbours: a store in a dict, a producer that records, and facts to feed them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from services.graph_updater.store import Floats, KindName, Row, Store, Stored, VectorName
from shared import events, topics
from shared.errors import Unavailable
from shared.events import Event, Interaction, Item, ItemSemantics, Opinions, Pair, Source
from shared.space import Attribute, Space
from shared.streams import Delivery

BASE = 1_600_000_000.0
SPACE = Space(
    name="tiny",
    embedding="none",
    embedding_dim=4,
    opinion_dim=2,
    attributes=(Attribute("sound", ("sound",)), Attribute("price", ("price",)), Attribute("other", ())),
)


class MemoryStore(Store):
    """Test double of a store: a dict. `exclusive` False: fenced by version, as a shared server is."""

    def __init__(self, *, exclusive: bool = True) -> None:
        self.exclusive = exclusive
        self.rows: dict[KindName, dict[str, Row]] = {"users": {}, "items": {}}
        self.fails = 0  # so many calls to come
        self.puts: list[tuple[KindName, list[str]]] = []

    def _answer(self) -> None:
        if self.fails:
            self.fails -= 1
            raise Unavailable("the store does not answer")

    async def get(self, kind: KindName, ids: Sequence[str]) -> dict[str, Stored]:
        self._answer()
        held = self.rows[kind]
        return {i: Stored(held[i].version, held[i].state) for i in ids if i in held}

    async def put(self, kind: KindName, rows: Sequence[Row]) -> dict[str, Stored]:
        self._answer()
        self.puts.append((kind, [row.id for row in rows]))
        newer = {}
        for row in rows:
            held = self.rows[kind].get(row.id)
            if held is not None and held.version >= row.version and not self.exclusive:
                newer[row.id] = Stored(held.version, held.state)
            elif row.vectors is None:
                assert held is not None, "only what is there can keep its vectors"
                self.rows[kind][row.id] = _found_by(
                    row, {**(held.fields if row.fields_stay else {}), **row.fields}, held.vectors
                )
            else:
                self.rows[kind][row.id] = _found_by(row, row.fields, row.vectors)
        return newer

    async def revise(self, kind: KindName, name: VectorName, vectors: Mapping[str, tuple[int, Floats]]) -> None:
        self._answer()
        for i, (version, vector) in vectors.items():
            row = self.rows[kind][i]
            if row.version == version or self.exclusive:
                self.rows[kind][i] = replace(row, vectors={**(row.vectors or {}), name: vector})

    async def vectors(self, kind: KindName, ids: Sequence[str], name: VectorName) -> dict[str, Floats]:
        self._answer()
        found = {i: (self.rows[kind][i].vectors or {}).get(name) for i in ids if i in self.rows[kind]}
        return {i: v / np.linalg.norm(v) for i, v in found.items() if v is not None and len(v)}

    async def similar(
        self, kind: KindName, vector: Floats, name: VectorName, k: int, without: str
    ) -> list[tuple[str, float]]:
        found = await self.vectors(kind, list(self.rows[kind]), name)
        unit = vector / np.linalg.norm(vector)
        scored = [(i, float(unit @ v)) for i, v in found.items() if i != without]
        return sorted(scored, key=lambda pair: -pair[1])[:k]

    async def find(self, kind: KindName, name: str, value: str) -> list[str]:
        self._answer()
        return [i for i, row in self.rows[kind].items() if name in row.fields and _holds(row.fields[name], value)]

    async def clear(self, kind: KindName, name: str, versions: Mapping[str, int]) -> None:
        self._answer()
        for i, version in versions.items():
            row = self.rows[kind].get(i)
            if row is not None and row.version == version:
                kept = {field: value for field, value in row.fields.items() if field != name}
                self.rows[kind][i] = Row(row.id, row.version, row.state, row.vectors, kept)

    async def count(self, kind: KindName) -> int:
        return len(self.rows[kind])

    async def close(self) -> None:
        self.rows = {"users": {}, "items": {}}


def _found_by(row: Row, fields: Mapping[str, str | list[str]], vectors: Mapping[VectorName, Floats] | None) -> Row:
    return replace(row, vectors=vectors, fields={name: value for name, value in fields.items() if value})


def _holds(field: str | list[str], value: str) -> bool:
    return value in field if isinstance(field, list) else value == field


@dataclass
class Recorder:
    """Test double of a producer: keeps what it is sent. `fails`: so many calls to come raise Unavailable."""

    sent: list[tuple[str, Event]]
    fails: int = 0

    async def send_all(self, batch: Sequence[tuple[str, Event]]) -> list[Source]:
        if self.fails:
            self.fails -= 1
            raise Unavailable("Kafka does not answer")
        self.sent.extend(batch)
        return [Source(topic, 0, n, BASE) for n, (topic, _) in enumerate(batch)]

    async def send(self, topic: str, event: Event) -> Source:
        return (await self.send_all([(topic, event)]))[0]

    def of(self, topic: str) -> list[Event]:
        return [event for name, event in self.sent if name == topic]


def deliver(event: Event, offset: int = 0, partition: int = 0, appended_at: float = BASE) -> Delivery:
    topic = next(t for t, kind in events.TYPE_OF.items() if isinstance(event, kind))
    return Delivery(event, Source(topic, partition, offset, appended_at))


def click(n: int, user: str = "u", item: str = "i", ts: float | None = None) -> Interaction:
    return Interaction(event_id=f"e{n}", user_id=user, item_id=item, ts=BASE + n if ts is None else ts)


def pair(attribute: str = "sound", vector: bytes = b"\x7f\x00") -> Pair:
    return Pair(attribute, "great", vector, 1, 0, 5, "great")


def opinions(n: int, user: str = "u", item: str = "i", ts: float | None = None, **fields: object) -> Opinions:
    made: dict[str, object] = {
        "review_id": f"r{n}", "user_id": user, "item_id": item, "ts": BASE + n if ts is None else ts, "rating": 4.0,
        "extractor": "x", "extractor_version": 1, "content_hash": "h", "space": SPACE.name, "pairs": [pair()],
        "vector": b"\x7f\x00\x00\x00", "source": Source(topics.REVIEWS, 0, n, BASE),
    }  # fmt: skip
    return Opinions(**{**made, **fields})  # type: ignore[arg-type]


def item(item_id: str = "i", ts: float = BASE, **fields: object) -> Item:
    return Item(item_id=item_id, ts=ts, title=f"Title of {item_id}", **fields)  # type: ignore[arg-type]


def semantics(item_id: str = "i", vector: bytes = b"\x7f\x00\x00\x00", **fields: object) -> ItemSemantics:
    made: dict[str, object] = {
        "item_id": item_id, "ts": BASE, "space": SPACE.name, "extractor_version": 1, "content_hash": "h",
        "vector": vector, "source": Source(topics.ITEMS, 0, 0, BASE),
    }  # fmt: skip
    return ItemSemantics(**{**made, **fields})  # type: ignore[arg-type]
