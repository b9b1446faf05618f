"""Work done once per distinct key: the known from a cache, the unknown in one batch."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from services.extractor import metrics
from services.extractor.cache import Cache

V = TypeVar("V")


class Remembered(Generic[V]):
    """`compute(keys)` answers one value a key, in order; it is never asked twice for a key that is still held."""

    def __init__(
        self, name: str, cache: Cache[str, V], compute: Callable[[Sequence[str]], Awaitable[Sequence[V]]]
    ) -> None:
        self._name = name
        self._cache = cache
        self._compute = compute

    async def __call__(self, keys: Sequence[str]) -> list[V]:
        values = {key: held for key in set(keys) if (held := self._cache.get(key)) is not None}
        unknown = [key for key in dict.fromkeys(keys) if key not in values]
        metrics.CACHE.labels(self._name, "hit").inc(len(keys) - len(unknown))
        metrics.CACHE.labels(self._name, "miss").inc(len(unknown))
        if unknown:
            for key, value in zip(unknown, await self._compute(unknown), strict=True):
                values[key] = value
                self._cache.put(key, value)
        return [values[key] for key in keys]
