"""What the handlers need of a producer (shared/kafka.Producer has it)."""

from collections.abc import Sequence
from typing import Protocol

from shared.events import Event, Source


class Sender(Protocol):
    async def send_all(self, batch: Sequence[tuple[str, Event]]) -> list[Source]:
        """Write events, in order per key, and wait for all. Raises Unavailable when Kafka does not answer."""
