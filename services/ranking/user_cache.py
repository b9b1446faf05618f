"""The last known state of users, for when graph_updater does not answer. Bounded in bytes; nothing else is kept.

An erasure drops its user at once. A state of another space is no answer: its vectors mean something else.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from services.ranking import metrics
from services.ranking.graph import Node


class UserCache:
    """Least recently used first to go; `max_age` in seconds."""

    def __init__(self, max_bytes: int, max_age: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._clock = clock
        self._bytes = 0
        self._held: OrderedDict[str, tuple[Node, str, float]] = OrderedDict()
        metrics.CACHED_USERS.set_function(lambda: len(self._held))

    def __len__(self) -> int:
        return len(self._held)

    def keep(self, node: Node, space: str) -> None:
        """Remember a state as just read; a user of whom nothing is known is not remembered."""
        self.forget(node.id)
        if not node.found:
            return
        self._held[node.id] = (node, space, self._clock())
        self._bytes += len(node.state)
        while self._bytes > self._max_bytes:
            self.forget(next(iter(self._held)))

    def find(self, user_id: str, space: str) -> Node | None:
        held = self._held.get(user_id)
        if held is None or held[1] != space or self._clock() - held[2] > self._max_age:
            return None
        self._held.move_to_end(user_id)
        return held[0]

    def forget(self, user_id: str) -> None:
        held = self._held.pop(user_id, None)
        if held is not None:
            self._bytes -= len(held[0].state)
