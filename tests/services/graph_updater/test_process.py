"""graph_updater as its own process over a broker and the embedded store: events in by Kafka, states out by gRPC."""

import asyncio
import json
import random
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from shared import events, rpc, topics
from shared.events import Event, ItemState, Opinions, Source
from shared.graph import fold
from shared.graph.state import ItemNode, UserState, item_from_bytes, user_from_bytes
from shared.kafka import Producer, ensure_topics
from shared.pb.finestream.v1 import graph_pb2, graph_pb2_grpc, position_pb2
from shared.settings import GrpcSettings, KafkaSettings
from tests.parts import read_topic, until
from tests.running import Running
from tests.services.graph_updater.doubles import BASE, SPACE, click, item, opinions, pair, semantics

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Place:
    """Where a graph_updater of a test runs: its own topics, store and space."""

    folder: Path
    kafka: KafkaSettings
    environment: dict[str, str]

    def start(self) -> Running:
        return Running("graph_updater", self.folder, **self.environment)


def place_in(folder: Path, bootstrap: str) -> Place:
    of_default_space = KafkaSettings(bootstrap=bootstrap, partitions=4, topic_prefix=f"t{secrets.token_hex(4)}-")
    kafka = of_default_space.model_copy(update={"space": SPACE.name})
    (folder / "spaces" / SPACE.name).mkdir(parents=True)
    (folder / "spaces" / SPACE.name / "space.json").write_bytes(msgspec.json.encode(SPACE))
    environment = {
        "FINESTREAM_KAFKA_BOOTSTRAP": bootstrap,
        "FINESTREAM_KAFKA_PARTITIONS": "4",
        "FINESTREAM_KAFKA_TOPIC_PREFIX": kafka.topic_prefix,
        "FINESTREAM_SPACE_NAME": SPACE.name,
        "FINESTREAM_SPACE_ROOT": str(folder / "spaces"),
        "FINESTREAM_QDRANT_PATH": str(folder / "qdrant"),
        "FINESTREAM_GRAPH_UPDATER_FLUSH_SECONDS": "0.5",
    }
    return Place(folder, kafka, environment)


@pytest.fixture(scope="module")
def shared_place(
    kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, Running]]:  # fmt: skip
    """One process for all tests that do not kill it; each has users and items of its own."""
    place = place_in(tmp_path_factory.mktemp("graph"), kafka_bootstrap)
    running = place.start().ready()
    yield place, running
    assert running.stop() == 0, running.log


@pytest.fixture
def kafka_settings(shared_place: tuple[Place, Running]) -> KafkaSettings:
    return shared_place[0].kafka


@asynccontextmanager
async def stub_of(running: Running) -> AsyncIterator[Any]:
    async with rpc.channel(running.grpc_address, GrpcSettings()) as channel:
        yield graph_pb2_grpc.GraphServiceStub(channel)


@pytest.fixture
async def stub(shared_place: tuple[Place, Running]) -> AsyncIterator[Any]:
    async with stub_of(shared_place[1]) as made:
        yield made


async def users_of(stub: Any, ids: Sequence[str], after: Sequence[Source] = (), timeout: float = 20.0) -> Any:
    positions = [position_pb2.Position(topic=s.topic, partition=s.partition, offset=s.offset) for s in after]
    queries = [graph_pb2.UserQuery(user_id=user_id, after=positions) for user_id in ids]
    return (await stub.GetUsers(graph_pb2.GetUsersRequest(users=queries), timeout=timeout)).users


async def items_of(stub: Any, ids: Sequence[str]) -> dict[str, ItemNode]:
    answer = await stub.GetItems(graph_pb2.GetItemsRequest(item_ids=ids), timeout=20)
    return {node.id: item_from_bytes(node.state) for node in answer.items if node.found}


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_get_users_with_after_gives_the_state_that_reflects_the_events(stub: Any, producer: Producer) -> None:
    first, second = await producer.send_all(
        [(topics.INTERACTIONS, click(1, "get", "get-item")), (topics.INTERACTIONS, click(2, "get", "get-item"))]
    )
    reviewed = Source(topics.REVIEWS, 1, 7, BASE)
    await producer.send(topics.OPINIONS, opinions(3, "get", "get-item", source=reviewed))
    (node,) = await users_of(stub, ["get"], after=[first, second, reviewed])
    user = user_from_bytes(node.state)
    assert fold.same_user(
        user,
        fold.fold_user(
            UserState("get"), [click(1, "get", "get-item"), click(2, "get", "get-item"), opinions(3, "get", "get-item")]
        ),
    )
    assert (node.found, node.version, node.watermark) == (True, user.version, BASE + 3)
    (unknown,) = await users_of(stub, ["nobody"])
    assert (unknown.found, unknown.state) == (False, b"")


async def test_a_wait_ends_as_soon_as_the_event_is_in(stub: Any, producer: Producer) -> None:
    known = await producer.send(topics.INTERACTIONS, click(1, "wait", "wait-item"))
    coming = Source(topics.INTERACTIONS, known.partition, known.offset + 1, BASE)
    waiting = asyncio.create_task(users_of(stub, ["wait"], after=[coming]))
    await users_of(stub, ["wait"], after=[known])
    assert not waiting.done()
    await producer.send(topics.INTERACTIONS, click(2, "wait", "wait-item"))
    (node,) = await waiting
    assert len(user_from_bytes(node.state).interactions) == 2


async def test_an_event_that_does_not_come_is_deadline_exceeded_with_a_sentence(stub: Any) -> None:
    never = Source(topics.INTERACTIONS, 0, 10**6, BASE)
    code, words = await refused(users_of(stub, ["never"], after=[never], timeout=3.0))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "interactions 0:1000000" in words


async def test_positions_of_items_are_not_waited_for(stub: Any) -> None:
    (node,) = await users_of(stub, ["nowhere"], after=[Source(topics.ITEMS, 0, 10**6, BASE)], timeout=5)
    assert not node.found


async def test_items_join_descriptions_embeddings_clicks_and_reviews_and_are_announced(
    stub: Any, producer: Producer, kafka_settings: KafkaSettings
) -> None:
    facts: list[tuple[str, Event]] = [
        (topics.ITEMS, item("joined")), (topics.ITEM_SEMANTICS, semantics("joined")),
        (topics.INTERACTIONS, click(1, user="a", item="joined")), (topics.INTERACTIONS, click(2, user="b", item="joined")),
        (topics.OPINIONS, opinions(3, user="a", item="joined")),
    ]  # fmt: skip
    sources = await producer.send_all(facts)
    edges = [fold.edges_of(fact, s) for (_, fact), s in list(zip(facts, sources, strict=True))[2:]]  # type: ignore[arg-type]
    expected = fold.fold_item(ItemNode("joined"), [item("joined"), semantics("joined"), *edges])

    async def joined() -> bool:
        found = await items_of(stub, ["joined"])
        return "joined" in found and fold.same_item(found["joined"], expected)

    await until(joined, 20, "the item holds all its facts")
    held = (await items_of(stub, ["joined"]))["joined"]
    assert held.positions == {topics.ITEMS: (sources[0].partition, sources[0].offset)}

    async def announced() -> bool:
        states = [state for state in await announced_states(kafka_settings) if state.item_id == "joined"]
        assert all(state.version <= held.version for state in states)
        changes = sorted(kind for state in states for kind, _ in state.changes)
        complete = bool(states) and (states[-1].version, states[-1].available) == (held.version, True)
        return complete and changes == ["interaction", "interaction", "item", "item", "review"]

    await until(announced, 20, "the newest version is announced, with all its changes")


async def test_bad_vectors_and_unknown_attributes_are_dead_letters_and_the_stream_goes_on(
    stub: Any, producer: Producer, kafka_settings: KafkaSettings
) -> None:
    bad: list[tuple[str, Event]] = [
        (topics.OPINIONS, opinions(1, "bad", "bad-item", pairs=[pair("no-such-attribute")])),
        (topics.OPINIONS, opinions(2, "bad", "bad-item", pairs=[pair(vector=b"\x01\x02\x03")])),
        (topics.OPINIONS, opinions(3, "bad", "bad-item", space="another")),
        (topics.ITEM_SEMANTICS, semantics("i", vector=b"short")),
    ]
    await producer.send_all(bad)
    await producer.send(topics.OPINIONS, opinions(4, "bad", "bad-item", source=Source(topics.REVIEWS, 0, 4, BASE)))
    (node,) = await users_of(stub, ["bad"], after=[Source(topics.REVIEWS, 0, 4, BASE)])
    assert [slot.review_id for slot in user_from_bytes(node.state).reviews] == ["r4"]

    async def buried() -> bool:
        letters = [
            record
            for topic in (topics.OPINIONS, topics.ITEM_SEMANTICS)
            for record in await read_topic(kafka_settings, topics.dead_letters(topic))
        ]
        assert len(letters) <= len(bad)
        return [dict(r.headers)["dlq-reason"] for r in letters] == [b"out_of_bounds"] * len(bad)

    await until(buried, 20, "each is a dead letter")


async def test_similar_items_and_users(stub: Any, producer: Producer) -> None:
    angles = {"s1": b"\x00\x00\x7f\x00", "s2": b"\x00\x00\x70\x30", "s3": b"\x00\x00\x00\x7f"}
    await producer.send_all([(topics.ITEM_SEMANTICS, semantics(i, vector=v)) for i, v in angles.items()])

    async def known() -> bool:
        return len(await items_of(stub, list(angles))) == 3

    await until(known, 20, "items are known")
    request = graph_pb2.SimilarItemsRequest(item_id="s1", k=1)
    (near,) = (await stub.SimilarItems(request, timeout=10)).neighbours
    assert near.id == "s2"
    assert near.similarity == pytest.approx(0.919, abs=0.01)
    clicks = [click(n, user=f"like-s{n}", item=f"s{n}") for n in (1, 2, 3)]
    clicks.append(click(4, user="lonely", item="of-no-vector"))
    sent = await producer.send_all([(topics.INTERACTIONS, made) for made in clicks])
    for made, source in zip(clicks, sent, strict=True):
        await users_of(stub, [made.user_id], after=[source])
    found = (await stub.SimilarUsers(graph_pb2.SimilarUsersRequest(user_id="like-s1"), timeout=10)).neighbours
    assert found[0].id == "like-s2"
    assert not {"like-s1", "lonely"} & {neighbour.id for neighbour in found}
    lonely = await stub.SimilarUsers(graph_pb2.SimilarUsersRequest(user_id="lonely"), timeout=10)
    assert list(lonely.neighbours) == []


async def test_wrong_requests_are_refused_with_a_sentence(stub: Any) -> None:
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    many = [graph_pb2.UserQuery(user_id=f"u{n}") for n in range(1001)]
    foreign = position_pb2.Position(topic=topics.INTERACTIONS, key="v")
    odd = position_pb2.Position(topic="impressions")
    table: list[tuple[str, Any, grpc.StatusCode, str]] = [
        ("GetUsers", graph_pb2.GetUsersRequest(users=many), invalid, "at most 1000"),
        ("GetUsers", graph_pb2.GetUsersRequest(users=many[:1], space="x"), invalid, "keeps 'tiny'"),
        ("GetUsers", graph_pb2.GetUsersRequest(users=[graph_pb2.UserQuery()]), invalid, "1 to 256"),
        ("GetUsers", graph_pb2.GetUsersRequest(users=[graph_pb2.UserQuery(user_id="u", after=[foreign])]), invalid,
         "another user"),
        ("GetUsers", graph_pb2.GetUsersRequest(users=[graph_pb2.UserQuery(user_id="u", after=[odd])]), invalid,
         "'impressions'"),
        ("GetItems", graph_pb2.GetItemsRequest(item_ids=["i"] * 1001), invalid, "at most 1000"),
        ("SimilarItems", graph_pb2.SimilarItemsRequest(item_id="i", k=-1), invalid, "1 to 1000"),
        ("SimilarItems", graph_pb2.SimilarItemsRequest(item_id="i", k=1_000_000_000), invalid, "1 to 1000"),
        ("SimilarItems", graph_pb2.SimilarItemsRequest(item_id="i", vector=9), invalid, "VECTOR_KIND_SEMANTIC"),
        ("SimilarItems", graph_pb2.SimilarItemsRequest(item_id="nothing"), missing, "'nothing' is not known"),
        ("SimilarUsers", graph_pb2.SimilarUsersRequest(user_id="nobody"), missing, "'nobody' is not known"),
        ("ForgetUser", graph_pb2.ForgetUserRequest(), invalid, "user_id"),
    ]  # fmt: skip
    for method, request, status, words in table:
        code, details = await refused(getattr(stub, method)(request, timeout=10))
        assert code is status, (method, details)
        assert words in details


async def test_states_are_readable_as_json(stub: Any, producer: Producer) -> None:
    source = await producer.send(topics.INTERACTIONS, click(1, "json", "json-item"))
    await users_of(stub, ["json"], after=[source])
    request = graph_pb2.GetUsersRequest(
        users=[graph_pb2.UserQuery(user_id="json")], format=graph_pb2.STATE_FORMAT_JSON, space=SPACE.name
    )
    (node,) = (await stub.GetUsers(request, timeout=10)).users
    assert json.loads(node.state)[:2] == ["json", [[BASE + 1, "e1", "json-item", "click"]]]


async def test_a_forgotten_user_is_blank_everywhere_and_later_facts_of_before_stay_out(
    stub: Any, producer: Producer
) -> None:
    await producer.send(topics.INTERACTIONS, click(1, "gone", "gone-item"))
    reviews = [opinions(n, "gone", f"g{n}", source=Source(topics.REVIEWS, 0, n, BASE)) for n in range(40)]
    await producer.send_all([(topics.OPINIONS, review) for review in reviews])
    names = [f"g{n}" for n in range(40)]

    async def reviewed() -> bool:
        return sum(len(found.reviews) for found in (await items_of(stub, names)).values()) == 40

    await until(reviewed, 20, "every item has its review")
    answer = await stub.ForgetUser(graph_pb2.ForgetUserRequest(user_id="gone"), timeout=10)
    position = answer.position
    assert (position.topic, position.key) == (topics.ERASURES, "gone")
    erasure = Source(position.topic, position.partition, position.offset, BASE)
    (node,) = await users_of(stub, ["gone"], after=[erasure])
    user = user_from_bytes(node.state)
    assert (user.interactions, user.reviews, user.erased_at) == ((), (), answer.erased_at)

    late = opinions(99, "gone", "g99", source=Source(topics.REVIEWS, 0, 99, BASE))
    await producer.send_all([(topics.OPINIONS, late), (topics.INTERACTIONS, click(5, "gone", "gone-item"))])

    async def blank() -> bool:
        slots = [slot for found in (await items_of(stub, [*names, "g99"])).values() for slot in found.reviews]
        return len(slots) == 41 and all(slot.erased_at and not slot.pairs and not slot.vector for slot in slots)

    await until(blank, 20, "every slot of the user is blank, also those that the user's state no longer held")
    (node,) = await users_of(stub, ["gone"], after=[late.source])
    assert user_from_bytes(node.state).reviews == ()


async def test_what_a_clock_that_is_ahead_has_told_is_forgotten_too(stub: Any, producer: Producer) -> None:
    ahead = events.Interaction(event_id="e", user_id="early", item_id="gone-item", ts=time.time() + 200)
    source = await producer.send(topics.INTERACTIONS, ahead)
    (node,) = await users_of(stub, ["early"], after=[source])
    assert len(user_from_bytes(node.state).interactions) == 1
    answer = await stub.ForgetUser(graph_pb2.ForgetUserRequest(user_id="early"), timeout=10)
    position = answer.position
    erasure = Source(position.topic, position.partition, position.offset, BASE)
    (node,) = await users_of(stub, ["early"], after=[erasure])
    assert user_from_bytes(node.state).interactions == ()


@pytest.mark.timeout(240)
async def test_killed_in_the_middle_the_live_states_are_the_fold_of_what_was_sent(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    place = place_in(tmp_path, kafka_bootstrap)
    await ensure_topics(place.kafka)
    producer = Producer(place.kafka)
    await producer.start()
    chance = random.Random(5)
    sent: list[tuple[str, Event]] = []
    running = place.start().ready()
    for round_number in range(6):
        chunk = [fact(round_number * 300 + n, chance) for n in range(300)]
        sources = await producer.send_all(chunk)
        sent.extend(chunk)
        if round_number in (1, 3, 4):
            async with stub_of(running) as stub:  # somewhere in the middle of the chunk
                middle = next(n for n in range(150, 300) if chunk[n][0] == topics.INTERACTIONS)
                await users_of(stub, [str(getattr(chunk[middle][1], "user_id", ""))], after=[sources[middle]])
            running.kill()
            running = place.start()
            if round_number == 3:  # again, while it starts
                await until(lambda running=running: "gRPC port open" in running.log, 30, "starting")  # type: ignore[misc]
                running.kill()
                running = place.start()
            running.ready()
    async with stub_of(running) as stub:
        await until(lambda: all_there(stub, sent), 60, "live states equal the fold")
    await check_announced(place.kafka, running)
    await producer.stop()
    assert running.stop() == 0, running.log


def fact(n: int, chance: random.Random) -> tuple[str, Event]:
    user, item_id = f"u{chance.randrange(25)}", f"i{chance.randrange(10)}"
    roll = chance.random()
    if roll < 0.6:
        return topics.INTERACTIONS, click(n, user, item_id)
    if roll < 0.9:
        return topics.OPINIONS, opinions(chance.randrange(200), f"u{n % 25}", f"i{n % 10}", ts=BASE + n)
    return (topics.ITEMS, item(item_id, ts=BASE + n)) if roll < 0.95 else (topics.ITEM_SEMANTICS, semantics(item_id))


async def all_there(stub: Any, sent: list[tuple[str, Event]]) -> bool:
    users, items = folded([event for _, event in sent])
    live = {node.id: node for node in await users_of(stub, list(users))}
    found = await items_of(stub, list(items))
    return all(
        live[user_id].found and fold.same_user(user_from_bytes(live[user_id].state), user)
        for user_id, user in users.items()
    ) and all(item_id in found and fold.same_item(found[item_id], node) for item_id, node in items.items())


def folded(facts: Sequence[Any]) -> tuple[dict[str, UserState], dict[str, ItemNode]]:
    users: dict[str, UserState] = {}
    items: dict[str, ItemNode] = {}
    nowhere = Source("", 0, 0, 0.0)
    for event in facts:
        if isinstance(event, events.Interaction | Opinions):
            users[event.user_id] = fold.fold_user(users.get(event.user_id, UserState(event.user_id)), [event])
            event = fold.edges_of(event, nowhere)
        items[event.item_id] = fold.fold_item(items.get(event.item_id, ItemNode(event.item_id)), [event])
    return users, items


async def check_announced(kafka_settings: KafkaSettings, running: Running) -> None:
    async with stub_of(running) as stub:
        versions = {i: node.version for i, node in (await items_of(stub, [f"i{n}" for n in range(10)])).items()}

    async def announced() -> bool:
        return {state.item_id: state.version for state in await announced_states(kafka_settings)} == versions

    await until(announced, 20, "the newest version of every item is announced last")


async def announced_states(kafka_settings: KafkaSettings) -> list[ItemState]:
    """In order, for each item."""
    found = [events.decode(topics.ITEM_STATES, r.value) for r in await read_topic(kafka_settings, topics.ITEM_STATES)]
    return [state for state in found if isinstance(state, ItemState)]


def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    running = Running("graph_updater", tmp_path, FINESTREAM_SPACE_NAME="no-such-space")
    assert running.process.wait(60) == 2
    [line] = [line for line in running.log.splitlines() if not line.startswith("{")]  # logs are JSON
    assert "FINESTREAM_SPACE_NAME" in line
