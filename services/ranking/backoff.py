"""Waiting longer each time, with jitter, so that replicas do not come back all at once."""

import random
from collections.abc import Iterator


def delays(first: float = 0.05, most: float = 5.0) -> Iterator[float]:
    """Seconds to wait before each further try, for ever."""
    delay = first
    while True:
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, no secret
        delay = min(delay * 2, most)
