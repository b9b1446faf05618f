"""What writes events to Kafka, as the handlers see it; shared.kafka.Producer is one."""

from collections.abc import Sequence
from typing import Protocol

from shared.events import Event, Source


class Sender(Protocol):
    async def send_all(self, batch: Sequence[tuple[str, Event]]) -> list[Source]: ...
