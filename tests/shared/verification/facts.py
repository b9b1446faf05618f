"""Facts of one user and one item, and logs in memory to fold them from."""

from collections.abc import AsyncIterator, Sequence

from shared import dead_letters, events, topics
from shared.dead_letters import Letter, Record
from shared.events import Event, Interaction, InteractionEdge, Opinions, Pair, ReviewEdge, Source
from shared.log_tail import Places
from shared.space import DEFAULT_SPACE
from tests.shared.graph.histories import BASE, ITEM, USER


def click(n: int, user: str = USER, ts: float | None = None) -> Interaction:
    return Interaction(event_id=f"e{n}", user_id=user, item_id=ITEM, ts=BASE + n if ts is None else ts)


def opinions(n: int, user: str = USER) -> Opinions:
    return Opinions(
        review_id=f"r{n}", user_id=user, item_id=ITEM, ts=BASE + n, extractor="x", extractor_version=1,
        content_hash="h", space="s", pairs=[Pair("sound", "good", b"\x01", 1, 0, 4, "Good")],
        source=Source(topics.REVIEWS, 0, n, BASE),
    )  # fmt: skip


def edge(n: int, item: str = ITEM) -> InteractionEdge:
    return InteractionEdge(item_id=item, ts=BASE + n, user_hash=n, source=Source(topics.INTERACTIONS, 0, n, BASE))


def review_edge(n: int) -> ReviewEdge:
    return ReviewEdge(item_id=ITEM, review_id=f"r{n}", user_id=USER, ts=BASE + n, source=Source("reviews", 0, n, BASE))


class MemoryTail:
    """Test double of LogTail: partition 0 of every topic, in lists."""

    space = DEFAULT_SPACE

    def __init__(self) -> None:
        self.records: dict[str, list[Record]] = {}
        self.first: dict[str, int] = {}  # what retention has left of a topic

    def append(self, topic: str, *facts: Event) -> None:
        held = self.records.setdefault(topic, [])
        for event in facts:
            place = Source(topic, 0, len(held), BASE + 1000)
            held.append(Record(place, events.key_of(event), events.encode(event)))

    def append_raw(self, topic: str, value: bytes) -> None:
        held = self.records.setdefault(topic, [])
        held.append(Record(Source(topic, 0, len(held), BASE), b"k", value))

    def bury(self, topic: str, offset: int, service: str = "users") -> None:
        record = self.records[topic][offset]
        letter = Letter(record, f"g.{self.space}", service, "out_of_bounds", "of another space")
        held = self.records.setdefault(topics.dead_letters(topic), [])
        place = Source(topics.dead_letters(topic), 0, len(held), BASE)
        held.append(Record(place, dead_letters.name_of(letter), record.value, tuple(dead_letters.headers_of(letter))))

    async def check_partitions(self, names: Sequence[str]) -> None:
        pass

    async def firsts(self, names: Sequence[str]) -> Places:
        return {name: {0: self.first.get(name, 0)} for name in names}

    async def ends(self, names: Sequence[str]) -> Places:
        return {name: {0: len(self.records.get(name, []))} for name in names}

    async def read(self, begin: Places, end: Places) -> AsyncIterator[Record]:
        for topic, partitions in end.items():
            first = begin.get(topic, {}).get(0, 0)
            assert first >= self.first.get(topic, 0), "these offsets are gone"
            for record in self.records.get(topic, [])[first : partitions[0]]:
                yield record
