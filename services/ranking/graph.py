"""Calls to graph_updater, the owner of users and items."""

from collections.abc import Sequence
from typing import Any

import grpc
from msgspec import Struct
from msgspec.structs import asdict

from services.ranking.requests import After
from shared.errors import DeadlineExceeded, Overloaded, Unavailable
from shared.pb.finestream.v1 import graph_pb2, graph_pb2_grpc

_MSGPACK = graph_pb2.STATE_FORMAT_MSGPACK


class Node(Struct, frozen=True, gc=False):
    """A node's state as it came: msgpack of shared/graph/state.py, empty where nothing is known."""

    id: str
    state: bytes
    version: int

    @property
    def found(self) -> bool:
        return bool(self.state)


class Graph:
    """GraphService. Every call raises Unavailable, DeadlineExceeded or Overloaded where it got no answer."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = graph_pb2_grpc.GraphServiceStub(channel)

    async def users(self, ids: Sequence[str], space: str, timeout: float, after: Sequence[After] = ()) -> list[Node]:
        """The states of users, in order; each reflects `after`."""
        positions = [asdict(position) for position in after]
        # Not a message each, which would be copied into the request: that takes twice the time.
        queries: list[dict[str, Any]] = [{"user_id": user_id, "after": positions} for user_id in ids]
        request = graph_pb2.GetUsersRequest(users=queries, space=space, format=_MSGPACK)
        try:
            answer = await self._stub.GetUsers(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise _error_of(error) from error
        return _nodes(ids, answer.users)

    async def items(self, ids: Sequence[str], space: str, timeout: float) -> list[Node]:
        """The states of items, in order. An answer larger than a message may be is asked for in halves."""
        request = graph_pb2.GetItemsRequest(item_ids=ids, space=space, format=_MSGPACK)
        try:
            answer = await self._stub.GetItems(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or len(ids) == 1:
                raise _error_of(error) from error
            half = len(ids) // 2
            return await self.items(ids[:half], space, timeout) + await self.items(ids[half:], space, timeout)
        return _nodes(ids, answer.items)


def _nodes(ids: Sequence[str], answers: Sequence[graph_pb2.NodeState]) -> list[Node]:
    nodes = [Node(a.id, a.state if a.found else b"", a.version) for a in answers]
    if [node.id for node in nodes] != list(ids):
        raise Unavailable("graph_updater answered other nodes than it was asked for")
    return nodes


def _error_of(error: grpc.aio.AioRpcError) -> Exception:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("graph_updater did not answer in time")
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded("graph_updater is overloaded; try again with back-off")
    return Unavailable(f"graph_updater does not answer ({error.code().name})")
