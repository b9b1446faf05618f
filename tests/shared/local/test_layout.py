"""Where everything lies on one machine, and that the operator's own addresses win."""

import os
import signal
from pathlib import Path

import pytest

from shared.local import layout
from shared.local.layout import SERVICES, Ports


def test_the_parts_are_the_clusters_own_entry_points_in_the_order_of_the_data_flow(tmp_path: Path) -> None:
    stages = layout.local(tmp_path, Ports.default(), {"PATH": os.environ["PATH"]}).stages()
    assert [[part.name for part in stage] for stage in stages] == [
        ["broker"], ["gateway", "extractor", "graph_updater", "archiver", "ranking"],
    ]  # fmt: skip
    assert [list(part.command[1:]) for part in stages[1]] == [["-m", f"services.{s.name}.main"] for s in SERVICES]


def test_the_broker_is_given_time_to_save_when_we_die_and_the_extractor_yields(tmp_path: Path) -> None:
    (broker,), services = layout.local(tmp_path, Ports.default(), {}).stages()
    assert broker.death_signal is signal.SIGTERM
    assert {part.name for part in services if part.niceness > 0} == {"extractor"}


def test_a_kafka_of_the_operator_replaces_the_embedded_broker(tmp_path: Path) -> None:
    system = layout.local(tmp_path, Ports.default(), {"FINESTREAM_KAFKA_BOOTSTRAP": "kafka:9092"})
    assert not system.embedded_broker
    assert [part.name for part in system.stages()[0]] == [service.name for service in SERVICES]
    assert system.env["FINESTREAM_KAFKA_BOOTSTRAP"] == "kafka:9092"


def test_what_the_operator_sets_is_kept_and_its_ports_are_looked_at(tmp_path: Path) -> None:
    given = {"FINESTREAM_ARCHIVE_URL": "s3://log", "FINESTREAM_RANKING_METRICS_PORT": "7777"}
    system = layout.local(tmp_path, Ports.default(), given)
    assert system.env["FINESTREAM_ARCHIVE_URL"] == "s3://log"
    assert system.env["FINESTREAM_BUNDLES_URL"] == str(tmp_path / "bundles")
    assert system.ports.metrics_url("ranking", "/readyz") == "http://127.0.0.1:7777/readyz"


def test_an_isolated_system_shares_nothing_with_another_one(tmp_path: Path) -> None:
    given = {"FINESTREAM_ARCHIVE_URL": "s3://log", "FINESTREAM_GATEWAY_PORT": "50051", "FINESTREAM_OPENAI_MODEL": "m"}
    a, b = (layout.isolated(tmp_path / name, given) for name in "ab")
    ours = {key for key, value in a.env.items() if key.startswith("FINESTREAM_") and value == b.env[key]}
    assert ours == {"FINESTREAM_OPENAI_MODEL"}


def test_two_isolated_systems_on_one_kafka_and_qdrant_have_names_of_their_own(tmp_path: Path) -> None:
    given = {"FINESTREAM_KAFKA_BOOTSTRAP": "kafka:9092", "FINESTREAM_QDRANT_URL": "http://qdrant:6333"}
    a, b = (layout.isolated(tmp_path, given) for _ in range(2))
    assert not a.embedded_broker
    for name in ("FINESTREAM_KAFKA_TOPIC_PREFIX", "FINESTREAM_QDRANT_COLLECTION_PREFIX"):
        assert a.env[name] != b.env[name]


def test_free_ports_are_all_different() -> None:
    ports = Ports.free()
    taken = [ports.broker, *ports.grpc.values(), *ports.metrics.values()]
    assert len(set(taken)) == len(taken) == 1 + 4 + 5


def test_threads_are_bounded_and_the_trainer_has_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in layout.THREADS:
        monkeypatch.delenv(name, raising=False)
    system = layout.local(tmp_path, Ports.default(), {})
    assert {system.env[name] for name in layout.THREADS} == {"1"}
    assert {system.trainer_env()[name] for name in layout.THREADS} == {"2"}


def test_a_port_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        layout.local(tmp_path, Ports.default(), {"FINESTREAM_GATEWAY_PORT": "http"})
