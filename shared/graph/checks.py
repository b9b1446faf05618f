"""What a fact must fit to be joined: the space whose states these are.

graph_updater makes a dead letter of what does not fit; who folds the log leaves it out by the same rule, since dead
letters expire and the archive does not.
"""

from collections.abc import Iterable

from shared.events import Event, ItemSemantics, Opinions, Pair, ReviewEdge
from shared.space import Space


class Checks:
    def __init__(self, space: Space) -> None:
        self._space = space
        self._attributes = frozenset(space.attribute_names)

    def problem(self, event: Event) -> str | None:
        """A sentence that says what does not fit, or None."""
        if isinstance(event, Opinions):
            return (
                self._other_space(event.space)
                or self._pairs(event.pairs)
                or self._vector("vector", event.vector, self._space.embedding_dim, may_be_empty=True)
            )
        if isinstance(event, ReviewEdge):
            return self._pairs(event.pairs) or self._vector(
                "vector", event.vector, self._space.embedding_dim, may_be_empty=True
            )
        if isinstance(event, ItemSemantics):
            return self._other_space(event.space) or self._vector(
                "vector", event.vector, self._space.embedding_dim, may_be_empty=False
            )
        return None

    def _other_space(self, name: str) -> str | None:
        if name == self._space.name:
            return None
        return f"space: {name!r} is not {self._space.name!r}, the space of these states"

    def _pairs(self, pairs: Iterable[Pair]) -> str | None:
        for pair in pairs:
            if pair.attribute not in self._attributes:
                return f"pairs: {pair.attribute!r} is no attribute of space {self._space.name}"
            problem = self._vector("pairs: vector", pair.vector, self._space.opinion_dim, may_be_empty=False)
            if problem:
                return problem
        return None

    def _vector(self, field: str, data: bytes, wanted: int, *, may_be_empty: bool) -> str | None:
        if len(data) == wanted or (may_be_empty and not data):
            return None
        return f"{field} has {len(data)} numbers; space {self._space.name} has {wanted}"
