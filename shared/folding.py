"""Folding a log into states: of every node, of chosen ones, or of a sample that is chosen on the way."""

import hashlib
import heapq
from collections.abc import Callable, Collection
from typing import Final, Generic, Protocol, TypeVar

from shared.events import Erasure, Event, Interaction, Opinions
from shared.graph import fold
from shared.graph.fold import ItemFact, UserFact
from shared.graph.state import ItemNode, UserState

FACTS_HELD: Final = 256  # of one node, before they are joined into its state
Node = TypeVar("Node", UserState, ItemNode)
Fact = TypeVar("Fact")
Taken = TypeVar("Taken", contravariant=True)


class Takes(Protocol[Taken]):
    def add(self, node: str, fact: Taken) -> None: ...


class Folding(Generic[Node, Fact]):
    """Gathers a few facts a node and joins them together: one join a fact would copy every state every time."""

    def __init__(self, join: Callable[[Node, list[Fact]], Node], empty: Callable[[str], Node]) -> None:
        self.states: dict[str, Node] = {}  # whole after `end`
        self._join: Final[Callable[[Node, list[Fact]], Node]] = join
        self._empty: Final[Callable[[str], Node]] = empty
        self._held: dict[str, list[Fact]] = {}

    def add(self, node: str, fact: Fact) -> None:
        facts = self._held.setdefault(node, [])
        facts.append(fact)
        if len(facts) >= FACTS_HELD:
            self._fold(node, self._held.pop(node))

    def drop(self, node: str) -> None:
        self._held.pop(node, None)
        self.states.pop(node, None)

    def end(self) -> None:
        for node, facts in self._held.items():
            self._fold(node, facts)
        self._held.clear()

    def _fold(self, node: str, facts: list[Fact]) -> None:
        held = self.states.get(node)
        self.states[node] = self._join(self._empty(node) if held is None else held, facts)


class Chosen(Generic[Node, Fact]):
    """Folds the facts of these nodes alone."""

    def __init__(self, nodes: Collection[str], folding: Folding[Node, Fact]) -> None:
        self._nodes = nodes
        self._folding: Final[Folding[Node, Fact]] = folding

    def add(self, node: str, fact: Fact) -> None:
        if node in self._nodes:
            self._folding.add(node, fact)


class Sample(Generic[Node, Fact]):
    """Folds the `size` nodes with the smallest seeded hashes of all that come by.

    One pass is enough: the largest hash that is kept only ever falls, so what is chosen in the end was so from its
    first fact on. Which nodes these are depends on the seed and the ids, not on the order of the log.
    """

    def __init__(self, size: int, seed: int, folding: Folding[Node, Fact]) -> None:
        self._size = size
        self._key = str(seed).encode()
        self._folding: Final[Folding[Node, Fact]] = folding
        self._chosen: set[str] = set()
        self._largest_first: list[tuple[int, str]] = []

    def add(self, node: str, fact: Fact) -> None:
        if node in self._chosen or self._choose(node):
            self._folding.add(node, fact)

    def _choose(self, node: str) -> bool:
        entry = (-self._hash(node), node)
        if len(self._chosen) < self._size:
            heapq.heappush(self._largest_first, entry)
        elif self._size == 0 or entry <= self._largest_first[0]:
            return False
        else:
            _, dropped = heapq.heapreplace(self._largest_first, entry)
            self._chosen.discard(dropped)
            self._folding.drop(dropped)
        self._chosen.add(node)
        return True

    def _hash(self, node: str) -> int:
        digest = hashlib.blake2b(node.encode("utf-8", "surrogatepass"), digest_size=16, key=self._key)
        return int.from_bytes(digest.digest(), "big")


def users() -> Folding[UserState, UserFact]:
    return Folding(fold.fold_user, UserState)


def items() -> Folding[ItemNode, ItemFact]:
    return Folding(fold.fold_item, ItemNode)


def give(event: Event, users: Takes[UserFact], items: Takes[ItemFact]) -> None:
    """To whose state it belongs; of an event of the topics that states are folded from."""
    if isinstance(event, Interaction | Opinions | Erasure):
        users.add(event.user_id, event)
    else:
        items.add(event.item_id, event)  # type: ignore[union-attr,arg-type]  # these topics hold nothing else
