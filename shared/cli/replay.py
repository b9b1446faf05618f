"""`finestream replay`: a file of reviews into Kafka, straight, as a producer with a Kafka client does it."""

from pathlib import Path

from shared.cli.demo.dataset import DataSet, of_file
from shared.cli.screen import Screen
from shared.kafka import Producer, ensure_topics
from shared.local.ledger import Ledger, send_all
from shared.settings import KafkaSettings

BAD_SHOWN = 5


class BadLines:
    """Counts the lines that are no reviews at all, and tells of the first few."""

    def __init__(self, screen: Screen) -> None:
        self.count = 0
        self._screen = screen

    def __call__(self, number: int, message: str) -> None:
        self.count += 1
        if self.count <= BAD_SHOWN:
            self._screen.say(f"line {number} is left out: {message}")


async def replay(path: Path, items: Path | None, rate: float, kafka: KafkaSettings, screen: Screen) -> None:
    """Send every line. Raises OSError where a file cannot be read, Unavailable where Kafka does not answer."""
    bad = BadLines(screen)
    data = of_file(path, items, bad)
    await ensure_topics(kafka)
    producer, ledger = Producer(kafka), Ledger()
    await producer.start()
    try:
        await stream(producer, ledger, data, screen, rate)
    finally:
        await producer.stop()
    counts = ", ".join(f"{len(ids)} {topic}" for topic, ids in ledger.sent.items())
    screen.say(f"sent {counts}; {bad.count} lines left out")


async def stream(producer: Producer, ledger: Ledger, data: DataSet, screen: Screen, rate: float = 0.0) -> None:
    with screen.progress(f"streaming {data.name}", data.total) as bar:
        await send_all(producer, ledger, data.read(), bar.at, rate)
