"""`finestream verify` beside a real graph_updater: equal at first, and a log that says something else is found."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import topics
from shared.events import Erasure, Event, Source
from shared.kafka import Producer
from shared.settings import KafkaSettings
from tests.e2e.processes import finestream
from tests.running import Running
from tests.services.graph_updater.doubles import BASE, SPACE, click, item, opinions, semantics
from tests.shared.local.test_verify import write_archive

pytestmark = pytest.mark.e2e
USERS, ITEMS = 30, 5


def facts() -> list[tuple[str, Event]]:
    """Of every kind, and one review that graph_updater buries."""
    clicks: list[tuple[str, Event]] = [
        (topics.INTERACTIONS, click(n, f"u{n % USERS}", f"i{n % ITEMS}")) for n in range(200)
    ]
    reviews = [(topics.OPINIONS, opinions(n, f"u{n % USERS}", f"i{n % ITEMS}")) for n in range(60)]
    described = [(topics.ITEMS, item(f"i{n}")) for n in range(ITEMS)]
    embedded = [(topics.ITEM_SEMANTICS, semantics(f"i{n}")) for n in range(ITEMS)]
    buried = [(topics.OPINIONS, opinions(999, "u1", "i1", space="another"))]
    erased = [(topics.ERASURES, Erasure(user_id="u2", erased_at=BASE + 100))]
    return [*clicks, *reviews, *described, *embedded, *buried, *erased]


@pytest.fixture(autouse=True)
def in_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here works in the space of the facts."""
    (tmp_path / "spaces" / SPACE.name).mkdir(parents=True)
    (tmp_path / "spaces" / SPACE.name / "space.json").write_bytes(msgspec.json.encode(SPACE))
    monkeypatch.setenv("FINESTREAM_SPACE_NAME", SPACE.name)
    monkeypatch.setenv("FINESTREAM_SPACE_ROOT", str(tmp_path / "spaces"))


@pytest.fixture
def graph(kafka_settings: KafkaSettings, tmp_path: Path) -> Any:
    running = Running("graph_updater", tmp_path, FINESTREAM_QDRANT_PATH=str(tmp_path / "qdrant")).ready()
    yield running
    assert running.stop() == 0, running.log


def verified(graph: Running, archive: str, report: Path, seconds: str, code: int) -> tuple[str, dict[str, Any]]:
    env = {"FINESTREAM_GRAPH_ADDRESS": graph.grpc_address, "FINESTREAM_ARCHIVE_URL": archive}
    with finestream("verify", "--seconds", seconds, "--json", str(report), env=env) as command:
        assert command.ended(60) == code, command.output
        return command.output, json.loads(report.read_bytes())


async def test_equal_at_first_and_then_a_log_with_another_fact_is_found(
    graph: Running, producer: Producer, tmp_path: Path
) -> None:
    sent = facts()
    sources = await producer.send_all(sent)
    output, report = verified(graph, str(tmp_path / "nothing"), tmp_path / "report.json", "30", 0)
    assert report == {
        "users": {"compared": USERS, "equal": USERS, "different": 0},
        "items": {"compared": ITEMS, "equal": ITEMS, "different": 0}, "nodes": [], "holes": [],
    }  # fmt: skip
    assert output.endswith("the live states are what the log says")

    # An archive that holds another first record of partition 0 than graph_updater has read.
    first = next(fact for (_, fact), at in zip(sent, sources, strict=True) if _is_first(at))
    archive = write_archive(tmp_path / "archive", [(topics.INTERACTIONS, click(777, first.user_id))])
    output, report = verified(graph, archive, tmp_path / "report.json", "0", 1)
    assert report["users"] == {"compared": USERS, "equal": USERS - 1, "different": 1}
    (node,) = report["nodes"]
    assert (node["kind"], node["id"], node["is_known"]) == ("user", first.user_id, True)
    assert re.search(rf"^user {first.user_id}$", output, re.MULTILINE)
    assert "interactions: only the log has e777 (click of i, " in output
    assert f"interactions: only the live state has {first.event_id} (click of {first.item_id}, " in output


def _is_first(at: Source) -> bool:
    return (at.topic, at.partition, at.offset) == (topics.INTERACTIONS, 0, 0)
