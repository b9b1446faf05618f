"""The three gRPC services as a client sees them: publish an event, ask for a ranking, read states."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from shared import rpc
from shared.events import Interaction, Item, Review
from shared.graph import state
from shared.graph.state import ItemNode, UserState
from shared.pb.finestream.v1 import event_pb2, event_pb2_grpc, graph_pb2, graph_pb2_grpc, ranking_pb2, ranking_pb2_grpc
from shared.pb.finestream.v1.position_pb2 import Position
from shared.settings import ClientSettings

NODES_A_CALL: Final = 50  # of which a full one may take 100 KiB, and an answer takes 8 MiB
CALL_SECONDS: Final = 15.0


class Client:
    """Every call has a deadline, `timeout` seconds, within which it is repeated where that may help (rpc.RETRIES).

    Calls raise grpc.aio.AioRpcError, whose details are a sentence for the caller.
    """

    def __init__(
        self,
        events: event_pb2_grpc.EventServiceStub,
        ranking: ranking_pb2_grpc.RankingServiceStub,
        graph: graph_pb2_grpc.GraphServiceStub,
    ) -> None:
        self._events = events
        self._ranking = ranking
        self._graph = graph

    async def publish(self, event: Interaction | Review | Item, timeout: float = CALL_SECONDS) -> Position:
        """Returns once the event is in Kafka. Its id makes a repeat harmless."""
        answer = await self._events.Publish(_request_of(event), timeout=timeout)
        return answer.position  # type: ignore[no-any-return]  # the stubs are untyped

    async def rank(
        self,
        user_id: str,
        k: int = 10,
        *,
        after: Sequence[Position] = (),
        context: Sequence[str] = (),
        candidates: Sequence[str] = (),
        categories: Sequence[str] = (),
        include_seen: bool = False,
        timeout: float = CALL_SECONDS,
        **fields: Any,
    ) -> ranking_pb2.RankResponse:
        """`fields`: whatever else a RankRequest has; None is as if it were left out."""
        request = ranking_pb2.RankRequest(
            user_id=user_id, k=k, after=after, context_items=context, candidates=candidates, categories=categories,
            include_seen=include_seen, **fields,
        )  # fmt: skip
        return await self._ranking.Rank(request, timeout=timeout)  # type: ignore[no-any-return]

    async def similar_items(
        self, item_id: str, k: int = 10, categories: Sequence[str] = (), timeout: float = CALL_SECONDS, **fields: Any
    ) -> ranking_pb2.RankingServiceSimilarItemsResponse:
        """`fields`: as in rank."""
        request = ranking_pb2.RankingServiceSimilarItemsRequest(item_id=item_id, k=k, categories=categories, **fields)
        return await self._ranking.SimilarItems(request, timeout=timeout)  # type: ignore[no-any-return]

    async def users(self, ids: Sequence[str], timeout: float = CALL_SECONDS) -> dict[str, UserState]:
        """States by id; users of whom nothing is known are left out. `timeout` is of each call for some of them."""
        found: dict[str, UserState] = {}
        for start in range(0, len(ids), NODES_A_CALL):
            queries = [graph_pb2.UserQuery(user_id=user_id) for user_id in ids[start : start + NODES_A_CALL]]
            request = graph_pb2.GetUsersRequest(users=queries, format=graph_pb2.STATE_FORMAT_MSGPACK)
            answer = await self._graph.GetUsers(request, timeout=timeout)
            found |= {node.id: state.user_from_bytes(node.state) for node in answer.users if node.found}
        return found

    async def items(self, ids: Sequence[str], timeout: float = CALL_SECONDS) -> dict[str, ItemNode]:
        """As users."""
        found: dict[str, ItemNode] = {}
        for start in range(0, len(ids), NODES_A_CALL):
            request = graph_pb2.GetItemsRequest(
                item_ids=ids[start : start + NODES_A_CALL], format=graph_pb2.STATE_FORMAT_MSGPACK
            )
            answer = await self._graph.GetItems(request, timeout=timeout)
            found |= {node.id: state.item_from_bytes(node.state) for node in answer.items if node.found}
        return found


@asynccontextmanager
async def connect(settings: ClientSettings | None = None) -> AsyncIterator[Client]:
    """A client of the addresses in `settings`, else in the environment: one connection each, for all calls."""
    found = settings or ClientSettings()
    async with (
        rpc.channel(found.gateway_address, found.grpc, retries=True) as gateway,
        rpc.channel(found.ranking_address, found.grpc, retries=True) as ranking,
        rpc.channel(found.graph.address, found.grpc, retries=True) as graph,
    ):
        yield Client(
            event_pb2_grpc.EventServiceStub(gateway),
            ranking_pb2_grpc.RankingServiceStub(ranking),
            graph_pb2_grpc.GraphServiceStub(graph),
        )


def _request_of(event: Interaction | Review | Item) -> event_pb2.PublishRequest:
    if isinstance(event, Interaction):
        return event_pb2.PublishRequest(
            interaction=event_pb2.Interaction(
                event_id=event.event_id, user_id=event.user_id, item_id=event.item_id, ts=event.ts, kind=event.kind
            )
        )
    if isinstance(event, Review):
        return event_pb2.PublishRequest(
            review=event_pb2.Review(
                review_id=event.review_id, user_id=event.user_id, item_id=event.item_id, ts=event.ts,
                text=event.text, title=event.title, rating=event.rating,
            )
        )  # fmt: skip
    return event_pb2.PublishRequest(
        item=event_pb2.Item(
            item_id=event.item_id, ts=event.ts, title=event.title, description=event.description, brand=event.brand,
            categories=event.categories, available=event.available,
            price=None if event.price is msgspec.UNSET else event.price,
        )
    )  # fmt: skip
