"""Tells those who wait for a user's state that it has been written."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Changes:
    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def tell(self, ids: Iterable[str]) -> None:
        if not self._waiting:
            return
        for node in ids:
            for event in self._waiting.get(node, ()):
                event.set()

    @contextmanager
    def watch(self, ids: Iterable[str]) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of the nodes has been written; the caller clears it."""
        event, nodes = asyncio.Event(), set(ids)
        for node in nodes:
            self._waiting.setdefault(node, set()).add(event)
        try:
            yield event
        finally:
            for node in nodes:
                self._waiting[node].discard(event)
                if not self._waiting[node]:
                    del self._waiting[node]
