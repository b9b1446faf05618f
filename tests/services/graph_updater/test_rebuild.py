"""services/graph_updater/rebuild.py: collections filled from archive and Kafka are what the service would have made."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.graph_updater.main import ITEM_TOPICS, USER_TOPICS
from services.graph_updater.rebuild import Nowhere, Rebuild
from shared import archive, events, jobs, topics
from shared.errors import Unavailable
from shared.events import Erasure, Event
from shared.graph import fold
from shared.graph.state import ItemNode, UserState, user_from_bytes
from shared.kafka import Producer, ensure_topics
from shared.whole_log import Log
from tests.parts import read_topic, until
from tests.running import Running
from tests.services.graph_updater.building import build
from tests.services.graph_updater.doubles import BASE, SPACE, MemoryStore, click, item, opinions, semantics
from tests.services.graph_updater.test_process import (
    Place,
    fact,
    items_of,
    place_in,
    stub_of,
    users_of,
)
from tests.shared.local.test_verify import write_archive
from tests.shared.verification.facts import MemoryTail

USERS, ITEMS = [f"u{n}" for n in range(25)], [f"i{n}" for n in range(10)]


def log_of(folder: Path, archived: Sequence[tuple[str, Event]], tail: MemoryTail) -> Log:
    return Log(write_archive(folder, list(archived)), tail)  # type: ignore[arg-type]


async def filled(log: Log, store: MemoryStore, first_version: int = 1) -> Rebuild:
    built = build(store, announce_seconds=0.0, first_version=first_version)
    await log.start()
    work = Rebuild(built.graph, log)
    await work.run(0)
    return work


@pytest.fixture
def tail() -> MemoryTail:
    return MemoryTail()


async def test_items_come_before_users_so_that_users_have_vectors(tmp_path: Path, tail: MemoryTail) -> None:
    archived: list[tuple[str, Event]] = [
        (topics.INTERACTIONS, click(1)), (topics.ITEMS, item()), (topics.ITEM_SEMANTICS, semantics()),
    ]  # fmt: skip
    store = MemoryStore()
    await filled(log_of(tmp_path, archived, tail_of(tail, archived)), store)
    assert (store.rows["users"]["u"].vectors or {})["semantic"].tolist() == [1, 0, 0, 0]
    assert "due" not in store.rows["items"]["i"].fields


async def test_versions_are_above_all_that_were(tmp_path: Path, tail: MemoryTail) -> None:
    archived: list[tuple[str, Event]] = [(topics.INTERACTIONS, click(1)), (topics.ITEMS, item())]
    store = MemoryStore()
    await filled(log_of(tmp_path, archived, tail_of(tail, archived)), store, first_version=1_000_000)
    assert store.rows["users"]["u"].version >= 1_000_000
    assert store.rows["items"]["i"].version >= 1_000_000


async def test_what_does_not_fit_is_counted_and_the_rest_goes_on(tmp_path: Path, tail: MemoryTail) -> None:
    archived: list[tuple[str, Event]] = [
        (topics.OPINIONS, opinions(1, space="another")), (topics.OPINIONS, opinions(2)),
    ]  # fmt: skip
    store = MemoryStore()
    work = await filled(log_of(tmp_path, archived, tail_of(tail, archived)), store)
    assert (work.facts, dict(work.refused)) == (2, {"out_of_bounds": 1})
    assert [slot.review_id for slot in user_from_bytes(store.rows["users"]["u"].state).reviews] == ["r2"]


async def test_a_store_that_does_not_answer_is_asked_again(
    tmp_path: Path, tail: MemoryTail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PAUSES", (0.0, 0.0))
    archived: list[tuple[str, Event]] = [(topics.ITEMS, item())]
    store = MemoryStore()
    store.fails = 2
    await filled(log_of(tmp_path, archived, tail_of(tail, archived)), store)
    assert "i" in store.rows["items"]
    store = MemoryStore()
    store.fails = 3
    with pytest.raises(Unavailable):
        await filled(log_of(tmp_path / "2", archived, tail), store)


def tail_of(tail: MemoryTail, archived: Sequence[tuple[str, Event]]) -> MemoryTail:
    """Kafka still has what is archived."""
    for topic, event in archived:
        tail.append(topic, event)
    return tail


async def test_nothing_is_sent() -> None:
    assert (
        await Nowhere().send_all([(topics.ITEM_EDGES, fold.edges_of(click(1), events.Source("t", 0, 0, BASE)))]) == []
    )


# --- the real thing ---------------------------------------------------------------------------------------

Start = Callable[[dict[str, str]], Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def starting(environment: dict[str, str]) -> Running:
        started.append(Running("graph_updater", tmp_path, **environment))
        return started[-1].ready()

    yield starting
    for running in started:
        if running.process.poll() is None:
            running.kill()


@pytest.mark.e2e
@pytest.mark.timeout(240)
async def test_rebuilt_beside_the_live_ones_and_once_more_after_a_stop_the_states_are_the_live_ones(
    kafka_bootstrap: str, tmp_path: Path, start: Start
) -> None:
    place = place_in(tmp_path, kafka_bootstrap)
    place.environment["FINESTREAM_ARCHIVE_URL"] = str(tmp_path / "archive")
    await ensure_topics(place.kafka)
    producer = Producer(place.kafka)
    await producer.start()
    chance = random.Random(7)
    first, second = [[fact(at + n, chance) for n in range(400)] for at in (0, 400)]
    live = start(place.environment)
    await archive_all(place, [*await producer.send_all(first)])
    await producer.send_all(second)  # Kafka alone has these
    await producer.send(topics.ERASURES, Erasure(user_id="u3", erased_at=BASE + 10_000))
    await until(lambda: has_read_all(live, place), 60, "the live ones are whole")

    beside = {**place.environment, "FINESTREAM_QDRANT_COLLECTION_PREFIX": "beside-"}
    report = rebuilt(beside)
    assert not report["went_on"]
    assert (report["users"], report["items"], report["refused"], report["holes"]) == (25, 10, {}, [])

    await producer.send_all([(topics.INTERACTIONS, click(5000 + n, f"u{n}", "i1")) for n in range(5)])
    await until(lambda: has_read_all(live, place), 60, "the live ones are whole again")
    async with stub_of(live) as stub:
        wanted = await states(stub)
    assert live.stop() == 0, live.log
    again = rebuilt(beside)
    assert again["went_on"]
    assert again["facts"] < 100, "only what has come since"

    switched = start(beside)
    async with stub_of(switched) as stub:
        found = await states(stub)
        await producer.send(topics.INTERACTIONS, click(6000, "u9", "i2"))
        await until(lambda: is_newest(stub, "u9", "e6000"), 30, "it goes on from there")
    for node, state in wanted[0].items():
        assert fold.same_user(found[0][node], state), node
        assert found[0][node].version > state.version
    for name, node_state in wanted[1].items():
        assert fold.same_item(found[1][name], node_state), name
        assert found[1][name].version > node_state.version
    await producer.stop()
    assert switched.stop() == 0, switched.log


def test_collections_that_a_running_graph_updater_has_open_are_a_wrong_setting(
    kafka_bootstrap: str, tmp_path: Path, start: Start
) -> None:
    place = place_in(tmp_path, kafka_bootstrap)
    live = start(place.environment)
    done = run_rebuild(place.environment)
    assert done.returncode == 2
    assert "is another graph_updater running?" in done.stderr.splitlines()[-1]
    assert live.stop() == 0, live.log


async def has_read_all(running: Running, place: Place) -> bool:
    """Users first: their edges are there when they are done."""
    for stream, names in (("users", USER_TOPICS), ("items", ITEM_TOPICS)):
        for topic in names:
            done = running.metric("finestream_stream_records_total", stream=stream, topic=topic)
            if done < len(await read_topic(place.kafka, topic)):
                return False
    return True


async def archive_all(place: Place, sources: Sequence[events.Source]) -> None:
    """By the real archiver, to the end of these; then it stops."""
    environment = {**place.environment, "FINESTREAM_ARCHIVER_FLUSH_SECONDS": "0.1"}
    archiver = Running("archiver", place.folder, **environment).ready()
    url = environment["FINESTREAM_ARCHIVE_URL"]

    def whole() -> bool:
        kept = archive.offsets(url, space=SPACE.name)
        return all(kept.get(s.topic, {}).get(s.partition, 0) > s.offset for s in sources)

    async def edges_too() -> bool:
        ends = {r.partition: r.offset + 1 for r in await read_topic(place.kafka, topics.ITEM_EDGES)}
        return whole() and bool(ends) and archive.offsets(url, space=SPACE.name).get(topics.ITEM_EDGES, {}) == ends

    await until(edges_too, 60, "all is archived")
    assert archiver.stop() == 0, archiver.log


async def states(stub: Any) -> tuple[dict[str, UserState], dict[str, ItemNode]]:
    users = await users_of(stub, USERS)
    return {u.id: user_from_bytes(u.state) for u in users if u.found}, await items_of(stub, ITEMS)


async def is_newest(stub: Any, user_id: str, event_id: str) -> bool:
    (node,) = await users_of(stub, [user_id])
    return user_from_bytes(node.state).interactions[0].event_id == event_id


def rebuilt(environment: dict[str, str]) -> dict[str, Any]:
    done = run_rebuild(environment)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def run_rebuild(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shared.cli.main", "rebuild"]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
