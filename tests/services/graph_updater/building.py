"""A whole graph over the doubles: handlers, nodes, announcer, sweep."""

from dataclasses import dataclass

from services.graph_updater.main import Graph
from services.graph_updater.settings import GraphUpdaterSettings
from shared.graph.state import ItemNode, UserState, item_from_bytes, user_from_bytes
from tests.services.graph_updater.doubles import SPACE, MemoryStore, Recorder


@dataclass
class Built:
    graph: Graph
    store: MemoryStore
    producer: Recorder

    def user(self, user_id: str = "u") -> UserState:
        """As the store holds it."""
        return user_from_bytes(self.store.rows["users"][user_id].state)

    def item(self, item_id: str = "i") -> ItemNode:
        return item_from_bytes(self.store.rows["items"][item_id].state)


def build(
    store: MemoryStore | None = None, producer: Recorder | None = None, first_version: int = 1, **settings: object
) -> Built:
    """Every call is another process over the same store."""
    store, producer = store or MemoryStore(), producer or Recorder([])
    given = GraphUpdaterSettings(**settings)  # type: ignore[arg-type]
    return Built(Graph.of(given, SPACE, store, producer, first_version), store, producer)
