"""GraphService: states of users and items, who is like whom, and how to be forgotten."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from services.graph_updater import metrics
from services.graph_updater.changes import Changes
from services.graph_updater.nodes import Nodes
from services.graph_updater.settings import GraphUpdaterSettings
from services.graph_updater.store import KindName, Store, VectorName
from shared import events, topics
from shared.errors import DeadlineExceeded, InvalidRequest, NotFound, Overloaded
from shared.events import Erasure, Event, InvalidEvent, Source
from shared.graph.state import ItemNode, UserState, glance, to_bytes, user_from_bytes, watermark
from shared.pb.finestream.v1 import graph_pb2, graph_pb2_grpc, position_pb2
from shared.rpc import remaining_seconds

SERVICE_NAME: Final = graph_pb2.DESCRIPTOR.services_by_name["GraphService"].full_name
MAX_IDS: Final = 1000
MAX_AFTER: Final = 64
MAX_K: Final = 1000
DEFAULT_K: Final = 10
POLL_SECONDS: Final = 0.02  # where another process may be the one that writes
MARGIN: Final = 0.1  # of the caller's time is left, so that the sentence arrives before the caller gives up
LARGEST_MARGIN_SECONDS: Final = 0.5
REFLECTED: Final = (topics.INTERACTIONS, topics.REVIEWS, topics.ERASURES)
MSGPACK: Final = (graph_pb2.STATE_FORMAT_UNSPECIFIED, graph_pb2.STATE_FORMAT_MSGPACK)
FORMATS: Final[dict[int, Callable[[UserState | ItemNode], bytes]]] = {
    **dict.fromkeys(MSGPACK, to_bytes),
    graph_pb2.STATE_FORMAT_JSON: msgspec.json.encode,
}
VECTORS: Final[dict[int, VectorName]] = {
    graph_pb2.VECTOR_KIND_UNSPECIFIED: "semantic",
    graph_pb2.VECTOR_KIND_SEMANTIC: "semantic",
    graph_pb2.VECTOR_KIND_OPINION: "opinion",
}
State = TypeVar("State", UserState, ItemNode)


class Sender(Protocol):
    async def send(self, topic: str, event: Event) -> Source: ...


class GraphService(graph_pb2_grpc.GraphServiceServicer):
    """Raises what shared/errors.py names; the server turns that into status codes."""

    def __init__(
        self, users: Nodes[UserState], items: Nodes[ItemNode], store: Store, sender: Sender, changes: Changes,
        settings: GraphUpdaterSettings,
    ) -> None:  # fmt: skip
        self._users = users
        self._items = items
        self._store = store
        self._sender = sender
        self._changes = changes
        self._settings = settings
        self._waiting = 0

    async def GetUsers(self, request: graph_pb2.GetUsersRequest, context: Any) -> graph_pb2.GetUsersResponse:  # noqa: N802
        self._check_space(request.space)
        ids = _checked_ids([query.user_id for query in request.users], "user_id")
        after = {query.user_id: _checked_after(query) for query in request.users}
        waited = {user_id: positions for user_id, positions in after.items() if positions}
        if waited:
            await self._until_reflected(waited, context)
        users = await self._users.read_encoded(ids)
        states = [_user_state(user_id, users.get(user_id), request.format) for user_id in ids]
        return graph_pb2.GetUsersResponse(users=self._fitting(states))

    async def GetItems(self, request: graph_pb2.GetItemsRequest, context: Any) -> graph_pb2.GetItemsResponse:  # noqa: N802
        self._check_space(request.space)
        ids = _checked_ids(request.item_ids, "item_ids")
        items = await self._items.read(ids)
        states = [_item_state(item_id, items.get(item_id), request.format) for item_id in ids]
        return graph_pb2.GetItemsResponse(items=self._fitting(states))

    async def SimilarUsers(  # noqa: N802
        self, request: graph_pb2.SimilarUsersRequest, context: Any
    ) -> graph_pb2.SimilarUsersResponse:
        found = await self._similar("users", "user_id", request.user_id, request)
        return graph_pb2.SimilarUsersResponse(neighbours=found)

    async def SimilarItems(  # noqa: N802
        self, request: graph_pb2.SimilarItemsRequest, context: Any
    ) -> graph_pb2.SimilarItemsResponse:
        found = await self._similar("items", "item_id", request.item_id, request)
        return graph_pb2.SimilarItemsResponse(neighbours=found)

    async def ForgetUser(self, request: graph_pb2.ForgetUserRequest, context: Any) -> graph_pb2.ForgetUserResponse:  # noqa: N802
        erasure = Erasure(user_id=request.user_id, erased_at=time.time())
        try:
            events.decode(topics.ERASURES, events.encode(erasure))
        except (InvalidEvent, UnicodeEncodeError) as error:
            raise InvalidRequest(str(error), "user_id") from None
        # A producer's clock may be ahead, or ours behind: what is known is forgotten whatever its time.
        for known in (await self._users.read([erasure.user_id])).values():
            erasure = replace(erasure, erased_at=max(erasure.erased_at, watermark(known)))
        source = await self._sender.send(topics.ERASURES, erasure)
        position = position_pb2.Position(
            topic=source.topic, partition=source.partition, offset=source.offset, key=erasure.user_id
        )
        return graph_pb2.ForgetUserResponse(erased_at=erasure.erased_at, position=position)

    async def _until_reflected(self, after: dict[str, list[position_pb2.Position]], context: Any) -> None:
        if self._waiting >= self._settings.max_waiting:
            raise Overloaded("too many calls wait for `after`; try again with back-off")
        self._waiting += 1
        metrics.WAITING.set(self._waiting)
        try:
            left = remaining_seconds(context, self._settings.max_wait_seconds)
            await self._watch(after, time.monotonic() + left - min(left * MARGIN, LARGEST_MARGIN_SECONDS))
        finally:
            self._waiting -= 1
            metrics.WAITING.set(self._waiting)

    async def _watch(self, after: dict[str, list[position_pb2.Position]], deadline: float) -> None:
        missing = after
        with self._changes.watch(after) as changed:
            while True:
                changed.clear()
                users = await self._users.read(list(missing))
                missing = {u: positions for u, positions in missing.items() if not _reflects(users.get(u), positions)}
                if not missing:
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DeadlineExceeded(_sentence(missing))
                try:
                    async with asyncio.timeout(left if self._store.exclusive else min(left, POLL_SECONDS)):
                        await changed.wait()
                except TimeoutError:
                    continue

    async def _similar(self, kind: KindName, field: str, node: str, request: Any) -> list[graph_pb2.Neighbour]:
        self._check_space(request.space)
        k = request.k or DEFAULT_K
        if not 1 <= k <= MAX_K:
            raise InvalidRequest(f"k is {k}; 1 to {MAX_K} are taken", "k")
        name = VECTORS.get(request.vector)
        if name is None:
            raise InvalidRequest(f"vector is {request.vector}; VECTOR_KIND_SEMANTIC or VECTOR_KIND_OPINION", "vector")
        _checked_ids([node], field)
        vector = (await self._store.vectors(kind, [node], name)).get(node)
        if vector is not None:
            found = await self._store.similar(kind, vector, name, k, node)
            return [graph_pb2.Neighbour(id=other, similarity=similarity) for other, similarity in found]
        if not await self._store.get(kind, [node]):
            raise NotFound(f"{field} {node!r} is not known")
        return []  # known, but nothing yet to compare it by

    def _check_space(self, name: str) -> None:
        own = self._settings.space.name
        if name not in ("", own):
            raise InvalidRequest(f"space {name!r} is not kept here; this service keeps {own!r}", "space")

    def _fitting(self, states: Sequence[graph_pb2.NodeState]) -> Sequence[graph_pb2.NodeState]:
        size, limit = sum(state.ByteSize() + 8 for state in states), self._settings.grpc.max_message_bytes
        if size > limit:
            raise Overloaded(f"the answer has {size} bytes and a message at most {limit}; ask for fewer at once")
        return states


def _checked_ids(ids: Sequence[str], field: str) -> list[str]:
    if len(ids) > MAX_IDS:
        raise InvalidRequest(f"{len(ids)} ids; at most {MAX_IDS} are taken in one call", field)
    for node in ids:
        if not 1 <= len(node) <= events.MAX_ID_CHARS:
            raise InvalidRequest(f"{field} has {len(node)} characters; 1 to {events.MAX_ID_CHARS} are taken", field)
    return list(ids)


def _checked_after(query: graph_pb2.UserQuery) -> list[position_pb2.Position]:
    """The positions that a user's state can reflect; those of items are not its business."""
    if len(query.after) > MAX_AFTER:
        raise InvalidRequest(f"after has {len(query.after)} entries; at most {MAX_AFTER} are taken", "after")
    for position in query.after:
        if position.topic not in (*REFLECTED, topics.ITEMS):
            raise InvalidRequest(
                f"after names the topic {position.topic!r}; a user's state reflects {', '.join(REFLECTED)}", "after"
            )
        if position.topic != topics.ITEMS and position.key not in ("", query.user_id):
            raise InvalidRequest("after names another user's event; send only this user's", "after")
    return [position for position in query.after if position.topic != topics.ITEMS]


def _reflects(user: UserState | None, positions: Sequence[position_pb2.Position]) -> bool:
    if user is None:
        return False
    return all(
        held is not None and held[0] == position.partition and held[1] >= position.offset
        for position in positions
        for held in (user.positions.get(position.topic),)
    )


def _sentence(missing: dict[str, list[position_pb2.Position]]) -> str:
    position = next(iter(missing.values()))[0]
    return (
        f"{len(missing)} of the users do not yet reflect what `after` names, as {position.topic}"
        f" {position.partition}:{position.offset}; allow more time, or ask again later"
    )


def _encoded(state: UserState | ItemNode, state_format: int) -> bytes:
    encode = FORMATS.get(state_format)
    if encode is None:
        raise InvalidRequest(f"format is {state_format}; STATE_FORMAT_MSGPACK or STATE_FORMAT_JSON", "format")
    return encode(state)


def _user_state(user_id: str, held: bytes | None, state_format: int) -> graph_pb2.NodeState:
    """`held` is msgpack already, which ranking asks for: decoding and encoding it is a sixth of its call."""
    if held is None:
        return graph_pb2.NodeState(id=user_id)
    version, newest = glance(held)
    state = held if state_format in MSGPACK else _encoded(user_from_bytes(held), state_format)
    return graph_pb2.NodeState(id=user_id, found=True, state=state, version=version, watermark=newest)


def _item_state(item_id: str, item: ItemNode | None, state_format: int) -> graph_pb2.NodeState:
    if item is None:
        return graph_pb2.NodeState(id=item_id)
    return graph_pb2.NodeState(
        id=item_id, found=True, state=_encoded(item, state_format), version=item.version, watermark=item.last_seen
    )
