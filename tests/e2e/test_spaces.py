"""A new space beside the old one: filled from the log without extracting again, then served side by side."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import projection, space, topics
from shared.events import Erasure, Event, Interaction, Item, Opinions, Review
from shared.graph.state import ItemNode, UserState, item_from_bytes, user_from_bytes
from shared.kafka import Producer
from shared.projection import Projection
from shared.settings import KafkaSettings
from tests.e2e.processes import finestream
from tests.parts import read_topic, until
from tests.running import Running
from tests.services.graph_updater.test_process import stub_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]
OLD, NEW = "old-v1", "new-v2"
WIDTH = 6  # of an opinion in the new space
USERS, ITEMS, REVIEWS = 8, 5, 40
BASE = 1.6e9
PRAISE = ["The battery dies fast.", "Great sound and a fair price.", "It broke after a week.", "Soft and comfortable."]
Start = Callable[..., Running]


@pytest.fixture
def spaces(tmp_path: Path) -> Path:
    """The default space by another name, and one with other attributes and narrower opinions."""
    root, given = tmp_path / "spaces", space.load()
    fitted = projection.load(given)
    new = msgspec.structs.replace(
        given, name=NEW, opinion_dim=WIDTH, attributes=tuple(a for a in given.attributes if a.name != "price")
    )
    for defined in (msgspec.structs.replace(given, name=OLD), new):
        (root / defined.name).mkdir(parents=True)
        (root / defined.name / "space.json").write_bytes(msgspec.json.encode(defined))
    shutil.copy(space.SPACES / given.name / projection.FILE, root / OLD)
    projection.save(Projection(fitted.mean, fitted.components[:WIDTH]), new, root)
    return root


@pytest.fixture
def start(tmp_path: Path, spaces: Path, kafka_environment: KafkaSettings) -> Iterator[Start]:
    """Services of a space; what the test has not stopped is killed."""
    started: list[Running] = []

    def starting(service: str, of: str, **more: str) -> Running:
        started.append(Running(service, tmp_path, **environment(tmp_path, of), **more))
        return started[-1].ready()

    yield starting
    for running in started:
        if running.process.poll() is None:
            running.kill()


def environment(folder: Path, of: str) -> dict[str, str]:
    return {
        "FINESTREAM_SPACE_NAME": of, "FINESTREAM_SPACE_ROOT": str(folder / "spaces"),
        "FINESTREAM_QDRANT_PATH": str(folder / "qdrant"), "FINESTREAM_ARCHIVE_URL": str(folder / "archive"),
        "FINESTREAM_ARCHIVER_FLUSH_SECONDS": "0.2",
    }  # fmt: skip


def review(number: int, seed: random.Random) -> Review:
    user, item = f"u{seed.randrange(USERS)}", f"i{seed.randrange(ITEMS)}"
    text = f"{seed.choice(PRAISE)} Number {number}."
    return Review(review_id=f"r{number}", user_id=user, item_id=item, ts=BASE + number, text=text, rating=4.0)


def click(number: int, seed: random.Random) -> Interaction:
    user, item = f"u{seed.randrange(USERS)}", f"i{seed.randrange(ITEMS)}"
    return Interaction(event_id=f"e{number}", user_id=user, item_id=item, ts=BASE + number)


async def test_a_new_space_is_filled_without_extracting_again_and_both_go_on_side_by_side(
    start: Start, kafka_settings: KafkaSettings, producer: Producer, tmp_path: Path
) -> None:
    old_kafka, new_kafka = (kafka_settings.model_copy(update={"space": name}) for name in (OLD, NEW))
    seed = random.Random(3)
    start("archiver", OLD, FINESTREAM_ARCHIVER_SPACES=NEW)
    start("extractor", OLD)
    old = start("graph_updater", OLD)
    items = [Item(item_id=f"i{n}", ts=BASE, title=f"Thing {n}") for n in range(ITEMS - 1)]  # the last has no text
    await producer.send_all([(topics.ITEMS, item) for item in items])
    await producer.send_all([(topics.REVIEWS, review(n, seed)) for n in range(REVIEWS)])
    await producer.send_all([(topics.INTERACTIONS, click(n, seed)) for n in range(60)])
    await producer.send(topics.ERASURES, Erasure(user_id="u1", erased_at=BASE + 20))
    await until(partial(extracted, old_kafka, range(REVIEWS)), 90, "all reviews are extracted")
    await until(lambda: all_read(old, old_kafka), 60, "the old space is whole")

    report = job(tmp_path, "respace", "--of", OLD)
    assert (report["items"], report["without_text"], report["holes"]) == (4, 0, [])
    assert REVIEWS - 5 < report["opinions"] <= REVIEWS, "the archive has none of a forgotten user"
    again = job(tmp_path, "respace", "--of", OLD)
    assert again["went_on"]
    assert (again["items"], again["opinions"], again["edges"]) == (0, 0, 0)
    assert job(tmp_path, "rebuild")["refused"] == {}

    extractor = start("extractor", NEW)
    new = start("graph_updater", NEW)
    more: list[tuple[str, Event]] = [(topics.REVIEWS, review(n, seed)) for n in range(REVIEWS, REVIEWS + 6)]
    await producer.send_all([*more, *((topics.INTERACTIONS, click(n, seed)) for n in range(60, 80))])
    await producer.send(topics.ERASURES, Erasure(user_id="u2", erased_at=BASE + 30))
    for kafka, graph in ((old_kafka, old), (new_kafka, new)):
        await until(partial(extracted, kafka, range(REVIEWS, REVIEWS + 6)), 90, "the new reviews are extracted")
        await until(partial(all_read, graph, kafka), 60, "the space is whole")
    assert sum(extractor.metric("finestream_extractor_reviews_total", outcome=o) for o in ("pairs", "empty")) == 6

    await same_facts(old, new)
    for graph, of in ((old, OLD), (new, NEW)):
        env = {**environment(tmp_path, of), "FINESTREAM_GRAPH_ADDRESS": graph.grpc_address}
        with finestream("verify", env=env) as command:
            assert command.ended(60) == 0, command.output


async def extracted(kafka: KafkaSettings, numbers: Sequence[int]) -> bool:
    found = {opinions_in(r.value).review_id for r in await read_topic(kafka, topics.OPINIONS)}
    return found.issuperset(f"r{number}" for number in numbers)


def opinions_in(value: bytes | None) -> Opinions:
    return msgspec.json.decode(value or b"", type=Opinions)


async def all_read(graph: Running, kafka: KafkaSettings) -> bool:
    """Users first: their edges are there when they are done."""
    of_users = (topics.INTERACTIONS, topics.OPINIONS, topics.ERASURES)
    of_items = (topics.ITEMS, topics.ITEM_SEMANTICS, topics.ITEM_EDGES)
    for stream, names in (("users", of_users), ("items", of_items)):
        for topic in names:
            done = graph.metric("finestream_stream_records_total", stream=stream, topic=topic)
            if done < len(await read_topic(kafka, topic)):
                return False
    return True


async def same_facts(old: Running, new: Running) -> None:
    """The two spaces differ in vectors and names of attributes, and in nothing else."""
    users, others = await states_of(old), await states_of(new)
    assert len(users[0]) == USERS
    for name, user in users[0].items():
        assert bare_user(others[0][name]) == bare_user(user)
        assert {len(p.vector) for slot in others[0][name].reviews for p in slot.pairs} <= {WIDTH}
    for name, item in users[1].items():
        assert bare_item(others[1][name]) == bare_item(item)
        assert (others[1][name].semantics is None) == (item.semantics is None)
    named = {p.attribute for user in others[0].values() for slot in user.reviews for p in slot.pairs}
    assert named
    assert "price" not in named


async def states_of(graph: Running) -> tuple[dict[str, UserState], dict[str, ItemNode]]:
    from shared.pb.finestream.v1 import graph_pb2

    async with stub_of(graph) as stub:
        queries = [graph_pb2.UserQuery(user_id=f"u{n}") for n in range(USERS)]
        users: Any = await stub.GetUsers(graph_pb2.GetUsersRequest(users=queries), timeout=20)
        names = [f"i{n}" for n in range(ITEMS)]
        items: Any = await stub.GetItems(graph_pb2.GetItemsRequest(item_ids=names), timeout=20)
    return (
        {node.id: user_from_bytes(node.state) for node in users.users},
        {node.id: item_from_bytes(node.state) for node in items.items},
    )


def bare_user(user: UserState) -> object:
    return (user.interactions, user.erased_at, [bare_slot(slot) for slot in user.reviews])


def bare_item(item: ItemNode) -> object:
    return (item.facts, item.popularity, item.popularity_total, item.last_seen, [bare_slot(s) for s in item.reviews])


def bare_slot(slot: Any) -> object:
    pairs = [(p.phrase, p.polarity, p.start, p.end, p.quote) for p in slot.pairs]
    return (slot.other_id, slot.review_id, slot.ts, slot.erased_at, slot.rating, pairs, bool(slot.vector))


def job(folder: Path, *arguments: str) -> dict[str, Any]:
    """A job of the new space; its report."""
    with finestream(*arguments, env=environment(folder, NEW)) as command:
        assert command.ended(120) == 0, command.output
        found: Sequence[str] = command.output.split("\n{\n")
        report: dict[str, Any] = json.loads("{\n" + found[-1])
        return report
