"""States of one kind, users or items: a bounded write-through cache in front of the store.

Whoever joins facts holds `lock` from `load` to the end of `write`, so that in this process a node has one writer.
Between processes a node has one writer too, the one that holds its partition, but for the moments of a rebalance:
no hook tells of a revoked partition, so with a shared store the cache may then be behind. Two things make that
harmless. The store refuses a write that does not move the version forward, and the refused state is joined with
what is there and written again (joins lose nothing in any order). And readers are given what the store holds,
never the cache, unless this process is the store's only writer.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec

from services.graph_updater import metrics
from services.graph_updater.cache import Cache
from services.graph_updater.store import REVIEWERS, Floats, KindName, Row, Store, VectorName
from services.graph_updater.vectors import Derived, ItemVectors
from shared.graph import fold
from shared.graph.state import ItemNode, UserState, item_from_bytes, to_bytes, user_from_bytes

State = TypeVar("State", UserState, ItemNode)
GET_NODES: Final = 1000


@dataclass(frozen=True)
class Kind(Generic[State]):
    """What users and items do differently. `vectors` and `fields` give what is written beside a state, and
    `keeps_vectors` says that those of an earlier state, of both, may stay; `has_fields`, that a state has any.
    """

    name: KindName
    id_of: Callable[[State], str]
    decode: Callable[[bytes], State]
    merge: Callable[[State, State], State]
    vectors: Callable[[State], dict[VectorName, Floats]]
    fields: Callable[[State], dict[str, str | list[str]]]
    has_fields: Callable[[State], bool]
    keeps_vectors: Callable[[State, State], bool]  # before, after


class Nodes(Generic[State]):
    def __init__(self, kind: Kind[State], store: Store, cache_bytes: int, first_version: int = 1) -> None:
        self._kind: Final[Kind[State]] = kind
        self._first_version = first_version
        self._store = store
        # Encoded: a fifth of the memory of decoded ones, and in one piece. What a state is decoded into is small and
        # new; as it lay, in a hundred places of a large memory, each event waited for those.
        self._cache = Cache(cache_bytes)
        self.lock = asyncio.Lock()

    async def load(self, ids: Sequence[str]) -> dict[str, State]:
        """States to join facts into, of those that are known. May be behind, which `write` makes good."""
        known, unknown = self._cached(ids)
        stored = await self._stored(unknown)
        for node, held in stored.items():
            self._cache.put(node, held)
        return self._decoded(known | stored)

    async def read(self, ids: Sequence[str]) -> dict[str, State]:
        """What the store has acknowledged, of those that are known. Needs no lock, so it leaves the cache alone."""
        return self._decoded(await self.read_encoded(ids))

    async def read_encoded(self, ids: Sequence[str]) -> dict[str, bytes]:
        """As read, as they are stored: for who only hands them on."""
        known, unknown = self._cached(ids) if self._store.exclusive else ({}, ids)
        return known | await self._stored(unknown)

    def _decoded(self, states: Mapping[str, bytes]) -> dict[str, State]:
        return {node: self._kind.decode(held) for node, held in states.items()}

    async def write(
        self,
        states: Sequence[State],
        before: Mapping[str, State],
        fields: Mapping[str, Mapping[str, str]] | None = None,
    ) -> dict[str, State]:
        """Write states of distinct nodes, each as its next version; returns what stands, by id.

        `before` are those of them that were there, as `load` gave them: most vectors need not be made again.
        `fields` are further fields of some of them, by id. Returns when the store has acknowledged all.
        """
        written: dict[str, State] = {}
        pending = {self._kind.id_of(state): state for state in states}
        while pending:
            pending = {node: self._next_version(state) for node, state in pending.items()}
            rows = [self._row(node, state, before.get(node), fields or {}) for node, state in pending.items()]
            newer = await self._store.put(self._kind.name, rows)
            for row in rows:
                if row.id not in newer:
                    written[row.id] = pending.pop(row.id)
                    self._cache.put(row.id, row.state)
            metrics.MERGES.labels(self._kind.name).inc(len(pending))
            pending = {
                node: self._kind.merge(state, self._kind.decode(newer[node].state)) for node, state in pending.items()
            }
            before = {}  # another writer's vectors are not those of the joined state
        metrics.WRITES.labels(self._kind.name).inc(len(written))
        metrics.CACHE_BYTES.labels(self._kind.name).set(self._cache.size)
        return written

    def _next_version(self, state: State) -> State:
        return msgspec.structs.replace(state, version=max(state.version + 1, self._first_version))

    def _row(self, node: str, state: State, before: State | None, fields: Mapping[str, Mapping[str, str]]) -> Row:
        keeps = before is not None and self._kind.keeps_vectors(before, state)
        given = fields.get(node, {})
        if keeps:
            return Row(node, state.version, to_bytes(state), None, given, fields_stay=self._kind.has_fields(state))
        vectors = self._kind.vectors(state)
        return Row(node, state.version, to_bytes(state), vectors, {**self._kind.fields(state), **given})

    def _cached(self, ids: Sequence[str]) -> tuple[dict[str, bytes], list[str]]:
        known = {node: held for node in ids if (held := self._cache.get(node)) is not None}
        unknown = [node for node in ids if node not in known]
        metrics.CACHE_HITS.labels(self._kind.name).inc(len(known))
        metrics.CACHE_MISSES.labels(self._kind.name).inc(len(unknown))
        return known, unknown

    async def _stored(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Encoded states."""
        found: dict[str, bytes] = {}
        for start in range(0, len(ids), GET_NODES):
            part = await self._store.get(self._kind.name, ids[start : start + GET_NODES])
            found |= {node: held.state for node, held in part.items()}
        return found


def users(store: Store, derived: Derived, cache_bytes: int, first_version: int = 1) -> Nodes[UserState]:
    def vectors(user: UserState) -> dict[VectorName, Floats]:
        return {"semantic": derived.user_semantic(user), "opinion": derived.opinion(user.reviews)}

    def keeps_vectors(before: UserState, after: UserState) -> bool:
        # What interactions change is left to the sweep, which makes it once for many facts. Nothing is left of what
        # was erased.
        return before.reviews == after.reviews and before.erased_at == after.erased_at

    return Nodes(
        Kind(
            "users",
            lambda user: user.user_id,
            user_from_bytes,
            fold.merge_users,
            vectors,
            fields=lambda _: {},
            has_fields=lambda _: False,
            keeps_vectors=keeps_vectors,
        ),
        store,
        cache_bytes,
        first_version,
    )


def items(
    store: Store, derived: Derived, cached: ItemVectors, cache_bytes: int, first_version: int = 1
) -> Nodes[ItemNode]:
    def vectors(item: ItemNode) -> dict[VectorName, Floats]:
        semantic = derived.item_semantic(item)
        if item.semantics is not None and item.semantics.vector:
            cached.put_quantised(item.item_id, item.semantics.vector)
        else:
            cached.put(item.item_id, semantic)
        return {"semantic": semantic, "opinion": derived.opinion(item.reviews)}

    def fields(item: ItemNode) -> dict[str, str | list[str]]:
        reviewers = sorted({slot.other_id for slot in item.reviews if not slot.erased_at})
        return {REVIEWERS: reviewers} if reviewers else {}

    def keeps_vectors(before: ItemNode, after: ItemNode) -> bool:
        return before.reviews == after.reviews and before.semantics == after.semantics

    return Nodes(
        Kind(
            "items",
            lambda item: item.item_id,
            item_from_bytes,
            fold.merge_items,
            vectors,
            fields=fields,
            has_fields=lambda item: bool(item.reviews),
            keeps_vectors=keeps_vectors,
        ),
        store,
        cache_bytes,
        first_version,
    )
