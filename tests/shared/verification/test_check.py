"""Archive and tail are one log; what differs is read again from both sides; what the stream buried is no fact."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import folding, topics
from shared.events import Erasure, Event
from shared.graph.checks import Checks
from shared.space import Attribute, Space
from shared.verification.check import Live, Outcome, Report, check
from shared.whole_log import Log
from tests.shared.graph.histories import BASE, ITEM, USER
from tests.shared.local.test_verify import write_archive
from tests.shared.verification.facts import MemoryTail, click, edge, opinions

SPACE = Space("s", "none", 4, 1, (Attribute("sound", ()), Attribute("other", ())))


class Graph:
    """Test double of graph_updater: the fold of the facts it is given. `late`: facts that it reads at its nth answer."""

    def __init__(self, *facts: Event) -> None:
        self.users = folding.users()
        self.items = folding.items()
        self.late: dict[int, list[Event]] = {}
        self.answers = 0
        self.read(*facts)

    def read(self, *facts: Event) -> None:
        for fact in facts:
            folding.give(fact, self.users, self.items)
        self.users.end()
        self.items.end()

    async def get_users(self, ids: Sequence[str]) -> dict[str, Any]:
        self.read(*self.late.get(self.answers, []))
        self.answers += 1
        return {node: self.users.states[node] for node in ids if node in self.users.states}

    async def get_items(self, ids: Sequence[str]) -> dict[str, Any]:
        return {node: self.items.states[node] for node in ids if node in self.items.states}


async def checked(graph: Graph, tail: MemoryTail, folder: Path, seconds: float = 0.0, users: int = 9) -> Report:
    log = Log(str(folder), tail)  # type: ignore[arg-type]
    live = Live(graph.get_users, graph.get_items)
    return await check(log, live, Checks(SPACE), users=users, items=9, seed=1, seconds=seconds)


@pytest.fixture
def tail() -> MemoryTail:
    return MemoryTail()


async def test_archive_and_tail_are_one_log_and_equal_states_are_equal(tmp_path: Path, tail: MemoryTail) -> None:
    url = write_archive(tmp_path, [(topics.INTERACTIONS, click(0)), (topics.ITEM_EDGES, edge(0))])
    tail.append(topics.INTERACTIONS, click(0), click(1, user="v"))
    tail.append(topics.ITEM_EDGES, edge(0), edge(1))
    tail.append(topics.OPINIONS, opinions(2))
    tail.append(topics.ERASURES, Erasure(user_id="v", erased_at=BASE + 5))
    tail.append_raw(topics.INTERACTIONS, b"not json")
    tail.first = {topics.INTERACTIONS: 1, topics.ITEM_EDGES: 1}  # retention has taken what is archived
    graph = Graph(click(0), edge(0), click(1, "v"), edge(1), opinions(2), Erasure(user_id="v", erased_at=BASE + 5))
    assert await checked(graph, tail, Path(url)) == Report(Outcome(2, 2, 0), Outcome(1, 1, 0), [], [])


async def test_what_is_lost_of_users_and_of_items_is_found_and_named(tmp_path: Path, tail: MemoryTail) -> None:
    tail.append(topics.INTERACTIONS, click(0), click(1), click(2, user="v"))
    tail.append(topics.OPINIONS, opinions(1))
    tail.append(topics.ITEM_EDGES, edge(0), edge(1))
    report = await checked(Graph(click(0), edge(0)), tail, tmp_path)
    assert (report.users, report.items) == (Outcome(2, 0, 2), Outcome(1, 0, 1))
    assert [(node.kind, node.id, node.is_known, [f.field for f in node.fields]) for node in report.nodes] == [
        ("user", USER, True, ["interactions", "reviews"]),
        ("user", "v", False, ["interactions"]),
        ("item", ITEM, True, ["popularity", "last_seen"]),
    ]


async def test_a_live_state_ahead_of_the_first_reading_is_right(tmp_path: Path, tail: MemoryTail) -> None:
    tail.append(topics.INTERACTIONS, click(0))
    graph = Graph(click(0))
    asked = graph.get_users

    async def while_traffic_goes_on(ids: Sequence[str]) -> dict[str, Any]:
        tail.append(topics.INTERACTIONS, click(5))
        graph.read(click(5))
        found = await asked(ids)
        tail.append(topics.INTERACTIONS, click(6))
        return found

    graph.get_users = while_traffic_goes_on  # type: ignore[method-assign]
    assert (await checked(graph, tail, tmp_path)).users == Outcome(1, 1, 0)


async def test_a_live_state_that_is_behind_is_waited_for(tmp_path: Path, tail: MemoryTail) -> None:
    tail.append(topics.INTERACTIONS, click(0), click(1))
    graph = Graph(click(0))
    graph.late = {1: [click(1)]}
    assert (await checked(graph, tail, tmp_path, seconds=20.0)).users == Outcome(1, 1, 0)
    assert graph.answers == 2


async def test_what_does_not_fit_the_space_is_no_fact_also_when_its_dead_letter_has_expired(
    tmp_path: Path, tail: MemoryTail
) -> None:
    narrow, foreign = opinions(1), opinions(2)
    wide = msgspec.structs.replace(narrow, pairs=[msgspec.structs.replace(narrow.pairs[0], vector=b"\x01\x02")])
    tail.append(topics.OPINIONS, opinions(0), wide, msgspec.structs.replace(foreign, space="another"))
    report = await checked(Graph(opinions(0)), tail, tmp_path)
    assert (report.users, report.nodes) == (Outcome(1, 1, 0), [])


async def test_what_graph_updater_buried_is_no_fact_but_what_another_stream_buried_is(
    tmp_path: Path, tail: MemoryTail
) -> None:
    url = write_archive(tmp_path, [(topics.OPINIONS, opinions(0))])
    tail.append(topics.OPINIONS, opinions(0), opinions(1), opinions(2), opinions(3, user="v"))
    for offset in (0, 1, 3):
        tail.bury(topics.OPINIONS, offset)
    tail.bury(topics.OPINIONS, 2, service="another")
    report = await checked(Graph(opinions(2)), tail, Path(url))
    assert report.users == Outcome(2, 2, 0)
    report = await checked(Graph(opinions(1), opinions(2)), tail, Path(url))
    assert [field.live_only[0].split(" ")[0] for node in report.nodes for field in node.fields] == ["r1"]


async def test_only_so_many_are_compared(tmp_path: Path, tail: MemoryTail) -> None:
    tail.append(topics.INTERACTIONS, *(click(n, user=f"u{n}") for n in range(20)))
    report = await checked(Graph(), tail, tmp_path, users=3)
    assert (report.users, len(report.nodes)) == (Outcome(3, 0, 3), 3)
    assert (await checked(Graph(), tail, tmp_path, users=0)).users == Outcome(0, 0, 0)


async def test_holes_of_the_log_are_told(tmp_path: Path, tail: MemoryTail) -> None:
    tail.append(topics.INTERACTIONS, click(0), click(1), click(2))
    tail.first = {topics.INTERACTIONS: 2}
    assert (await checked(Graph(click(2)), tail, tmp_path)).holes == [
        "interactions 0: offsets 0 to 1 are neither in the archive nor in Kafka"
    ]
    url = write_archive(tmp_path, [(topics.OPINIONS, opinions(n)) for n in range(3)])
    assert (
        "opinions 0: the archive ends at offset 3 but Kafka at 0; its log went back"
        in (await checked(Graph(), tail, Path(url))).holes
    )


def test_a_report_is_json() -> None:
    report = Report(Outcome(1, 1, 0), Outcome(0, 0, 0), [], [])
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
