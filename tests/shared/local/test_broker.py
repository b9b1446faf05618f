"""The embedded broker keeps what it acknowledged over a clean stop, and says at once when it cannot run."""

from pathlib import Path

import pytest

from shared import logs, topics
from shared.errors import Unavailable
from shared.kafka import ensure_topics
from shared.local.broker import Broker, command
from shared.settings import KafkaSettings
from tests.parts import Raw, free_port, produce, read_topic


async def test_records_outlive_a_clean_stop(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("test")  # another test may have left a level at which no warning shows
    port = free_port()
    kafka = KafkaSettings(bootstrap=f"127.0.0.1:{port}")
    broker = Broker(tmp_path, port)
    assert broker.bootstrap == kafka.bootstrap
    await broker.start()
    try:
        await ensure_topics(kafka)
        await produce(kafka, topics.ITEMS, [Raw(b"k", b"v", 0)])
        first = broker.pid
        broker.stop()
        await broker.start()
        assert broker.pid != first
        assert [(r.key, r.value) for r in await read_topic(kafka, topics.ITEMS)] == [(b"k", b"v")]
    finally:
        broker.stop()
    assert "not durable across a kill" in "".join(capfd.readouterr())


async def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    port = free_port()
    first, second = Broker(tmp_path / "a", port), Broker(tmp_path / "b", port)
    await first.start()
    try:
        with pytest.raises(Unavailable, match="something else listens"):
            await second.start()
    finally:
        second.stop()
        first.stop()


def test_the_command_names_its_folder_and_port(tmp_path: Path) -> None:
    words = command(tmp_path, 1234)
    assert Path(words[0]).is_file()
    assert words[words.index("--data-dir") + 1] == str(tmp_path)
    assert words[words.index("--kafka-port") + 1] == "1234"
