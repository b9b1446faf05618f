"""Test doubles of ranking's neighbours: a tiny deterministic model, and graph_updater over real gRPC."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import torch
from torch import Tensor

from shared.events import Pair
from shared.graph.fold import distinct_users
from shared.graph.state import (
    InteractionSlot,
    ItemFacts,
    ItemNode,
    ReviewSlot,
    UserState,
    to_bytes,
    watermark,
)
from shared.models.contract import ItemTable
from shared.pb.finestream.v1 import graph_pb2, graph_pb2_grpc
from shared.space import quantise

NOW = 1_700_000_000.0
DIM = 16


class DotModel:
    """A test double of a Servable: an item is a random vector seeded by its id, a user the mean of its items."""

    kind = "dot-double"

    def __init__(self, space: str = "", broken: str = "") -> None:
        self.space = space
        self.broken = broken
        self.encoded: list[str] = []

    def encode_items(self, items: Sequence[ItemNode]) -> ItemTable:
        ids = [item.item_id for item in items]
        if "poison" in ids:
            raise RuntimeError("this item breaks the model")
        self.encoded += ids
        vectors = torch.stack([vector_of(item_id) for item_id in ids])
        if self.broken == "items":
            vectors[-1, 0] = torch.inf
        users = torch.tensor([distinct_users(item.popularity_total) for item in items])
        return ItemTable(ids, vectors, torch.zeros(len(ids)), {"users": users})

    def encode_users(self, users: Sequence[UserState], table: ItemTable, now: float) -> Tensor:
        if any(user.user_id == "poison" for user in users):
            raise RuntimeError("this user breaks the model")
        value = torch.nan if self.broken == "users" else 0.0
        rows = [[table.row_of[s.item_id] for s in user.interactions if s.item_id in table.row_of] for user in users]
        return torch.stack([table.vectors[r].mean(0) if r else torch.zeros(DIM) for r in rows]) + value

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def vector_of(item_id: str) -> Tensor:
    return torch.randn(DIM, generator=torch.Generator().manual_seed(zlib.crc32(item_id.encode())))


def user_of(
    user_id: str,
    items: Sequence[str] = (),
    reviews: Sequence[ReviewSlot] = (),
    *,
    ts: float = NOW,
    positions: dict[str, tuple[int, int]] | None = None,
) -> UserState:
    """A user who met `items`, oldest first."""
    slots = [InteractionSlot(ts + i, f"{user_id}-{i}", item_id, "click") for i, item_id in enumerate(items)]
    return UserState(user_id, tuple(reversed(slots)), tuple(reviews), positions=positions or {}, version=1)


def item_of(
    item_id: str,
    version: int = 1,
    *,
    users: int = 0,
    categories: Sequence[str] = (),
    available: bool = True,
    price: float | None = None,
    reviews: Sequence[ReviewSlot] = (),
    offset: int | None = None,
) -> ItemNode:
    facts = ItemFacts(NOW, "hash", f"title of {item_id}", "", "", tuple(categories), available, price)
    positions = {} if offset is None else {"items": (0, offset)}
    return ItemNode(
        item_id, facts, reviews=tuple(reviews), popularity_total=tuple(range(users)), last_seen=NOW,
        positions=positions, version=version,
    )  # fmt: skip


def review_of(other_id: str, review_id: str, *pairs: Pair, ts: float = NOW) -> ReviewSlot:
    return ReviewSlot(other_id, review_id, ts, 0.0, 1, 4.0, tuple(pairs), b"")


def pair_of(attribute: str, phrase: str, polarity: int = 1, vector: Sequence[float] = (1.0, 0.0)) -> Pair:
    (data,) = quantise(torch.tensor([vector]).numpy())
    quote = f"the {attribute} is {phrase}"
    return Pair(attribute, phrase, data, polarity, 0, len(quote), quote)


class GraphDouble(graph_pb2_grpc.GraphServiceServicer):
    """A test double of graph_updater: states in dicts, over real gRPC. `silent`: UNAVAILABLE; `hanging`: no answer."""

    def __init__(self) -> None:
        self.users: dict[str, UserState] = {}
        self.items: dict[str, ItemNode] = {}
        self.silent = False
        self.hanging = False
        self.max_items = 1000
        self.calls: list[int] = []  # users of each GetUsers call
        self.item_calls: list[int] = []
        self.spaces: set[str] = set()
        self.gate: asyncio.Event | None = None  # GetItems waits for it
        self.port = 0

    def put(self, *nodes: UserState | ItemNode) -> None:
        for node in nodes:
            if isinstance(node, UserState):
                self.users[node.user_id] = node
            else:
                self.items[node.item_id] = node

    async def _available(self, context: Any) -> None:
        if self.silent:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "silent")
        while self.hanging:
            await asyncio.sleep(0.01)

    async def GetUsers(self, request: Any, context: Any) -> Any:
        self.calls.append(len(request.users))
        self.spaces.add(request.space)
        await self._available(context)
        for query in request.users:
            while not self._reflects(query):
                await asyncio.sleep(0.01)  # until the caller's deadline cancels this call
        return graph_pb2.GetUsersResponse(users=[_node(q.user_id, self.users.get(q.user_id)) for q in request.users])

    def _reflects(self, query: Any) -> bool:
        held = self.users[query.user_id].positions if query.user_id in self.users else {}
        return all(after.topic in held and held[after.topic][1] >= after.offset for after in query.after)

    async def GetItems(self, request: Any, context: Any) -> Any:
        self.item_calls.append(len(request.item_ids))
        self.spaces.add(request.space)
        await self._available(context)
        if len(request.item_ids) > self.max_items:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
        answer = graph_pb2.GetItemsResponse(items=[_node(i, self.items.get(i)) for i in request.item_ids])
        if self.gate:
            await self.gate.wait()
        return answer


def _node(node_id: str, state: UserState | ItemNode | None) -> graph_pb2.NodeState:
    if state is None:
        return graph_pb2.NodeState(id=node_id)
    newest = watermark(state) if isinstance(state, UserState) else state.last_seen
    return graph_pb2.NodeState(id=node_id, found=True, state=to_bytes(state), version=state.version, watermark=newest)


@asynccontextmanager
async def serving(double: GraphDouble) -> AsyncIterator[GraphDouble]:
    """The double, listening on a free port."""
    server = grpc.aio.server()
    graph_pb2_grpc.add_GraphServiceServicer_to_server(double, server)
    double.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield double
    finally:
        double.hanging = False
        if double.gate:
            double.gate.set()
        await server.stop(0)
