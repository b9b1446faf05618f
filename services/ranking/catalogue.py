"""The catalogue kept fresh: told of changes by item-states, it fetches, encodes and swaps in what changed.

`tell` notes a change, `run` works changes off in small batches, `build` makes the generation of a new release
beside those that are there and swaps it in. Beside the current generation stand those of the bundles that an
experiment wants (`want`); all are kept fresh by the same fetches. Everything here runs in the event loop but the jobs
it gives to the inference thread, so a ranking always sees whole rows and one generation.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

import msgspec

from services.ranking import backoff, metrics
from services.ranking.generation import Generation, Release
from services.ranking.graph import Graph, Node
from services.ranking.inference import Inference
from shared import logs
from shared.errors import DeadlineExceeded, Overloaded, Unavailable
from shared.events import ItemState
from shared.graph.state import ItemNode, item_from_bytes
from shared.metrics import EVENT_TO_VISIBLE
from shared.service import Heartbeat

T = TypeVar("T")
log = logs.get(__name__)
FETCH_SECONDS: Final = 10.0
MAX_TRIES: Final = 6  # of an item whose promised version graph_updater does not answer with
MAX_MEASURED: Final = 64  # changes of one item whose freshness is measured, between two fetches
CATCH_UP_ROUNDS: Final = 5
SMALL_PART: Final = 32  # rows written at once, 3 ms of a core; many more would be felt by who asks meanwhile
# From one fetch to the next, where it had all that had changed: each costs some 3 ms of a core, and an item .1 ms.
GATHER_SECONDS: Final = 0.1


@dataclass(slots=True)
class _Pending:
    """A change not yet in the table."""

    version: int
    available: bool
    tries: int = 0
    appended_at: list[float] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Waiter:
    partition: int
    offset: int
    reflected: asyncio.Future[None]


class Catalogue:
    """`rehearse` runs a finished generation once, in the inference thread, and raises where it cannot serve.
    `afford` is asked, when a generation has its first rows, whether there is room for so many; it raises where not.
    """

    def __init__(
        self,
        graph: Graph,
        inference: Inference,
        rehearse: Callable[[Generation], None],
        *,
        fetch_items: int = 128,
        encode_items: int = 64,
        gather_seconds: float = GATHER_SECONDS,
        afford: Callable[[Generation, int], None] = lambda _generation, _rows: None,
    ) -> None:
        self._graph = graph
        self._rehearse = rehearse
        self._inference = inference
        self._fetch_items = fetch_items
        self._encode_items = encode_items
        self._gather_seconds = gather_seconds
        self._afford = afford
        self._current = Generation(device=inference.device)
        self._held = {self._current.release.version: self._current}  # replaced whole, in the inference thread
        self._wanted: Set[str] = frozenset()
        self._pending: dict[str, _Pending] = {}
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()  # whoever changes the current generation, or replaces it
        self._touched: set[str] | None = None  # told of while a generation is built
        self._waiters: dict[str, list[_Waiter]] = {}

    @property
    def current(self) -> Generation:
        """What is served. A job of the inference thread must read it once, when it starts."""
        return self._current

    def of(self, version: str) -> Generation | None:
        """The generation of a bundle, where it is held. To be read as `current` is."""
        return self._held.get(version)

    @property
    def space(self) -> str:
        """That states must be asked for in, so that every generation can read them: one of "" reads no vectors."""
        return next((held.release.space for held in self._held.values() if held.release.space), "")

    @property
    def pending(self) -> int:
        """How many items are told of as changed and not yet in the table."""
        return len(self._pending)

    async def tell(self, states: Sequence[ItemState], *, live: bool = True) -> None:
        """Note that items have changed; what is withdrawn is in no ranking from the next batch on.

        `live` False: replayed records, whose freshness says nothing.
        """
        for state in states:
            self._note(state, live)
        metrics.PENDING_ITEMS.set(len(self._pending))
        self._changed.set()
        withdrawn = [state.item_id for state in states if not state.available]
        if withdrawn:
            await self._inference.run(self._withdraw, withdrawn)

    def _withdraw(self, item_ids: Sequence[str]) -> None:
        for generation in self._held.values():
            generation.facts.withdraw(item_ids)

    def _note(self, state: ItemState, live: bool) -> None:
        if self._touched is not None:
            self._touched.add(state.item_id)
        pending = self._pending.setdefault(state.item_id, _Pending(state.version, state.available))
        pending.version, pending.available, pending.tries = state.version, state.available, 0
        if live:
            measured = [appended_at for kind, appended_at in state.changes if kind == "item"]
            pending.appended_at = [*pending.appended_at, *measured][-MAX_MEASURED:]

    async def run(self, heart: Heartbeat | None = None) -> None:
        """Work changes off for ever; back off while graph_updater does not answer."""
        waits = backoff.delays()
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), 1.0)
            if heart:
                heart.beat()
            if not self._pending:
                self._changed.clear()
                continue
            began, more = time.monotonic(), len(self._pending) >= self._fetch_items
            try:
                slow = await self.refresh()
            except (Unavailable, DeadlineExceeded, Overloaded) as error:
                metrics.REFRESH_RETRIES.inc()
                log.warning("items cannot be fetched yet", error=str(error), pending=len(self._pending))
                slow = True
            if slow:
                await asyncio.sleep(next(waits))
            else:
                waits = backoff.delays()
                if not more:
                    await asyncio.sleep(began + self._gather_seconds - time.monotonic())

    async def refresh(self) -> bool:
        """Fetch, encode and swap in one batch of changes. True: some are not there yet, try later."""
        async with self._turn:
            item_ids = list(islice(self._pending, self._fetch_items))
            told = {item_id: self._pending[item_id].version for item_id in item_ids}
            nodes = await self._fetch(item_ids, self.space)
            for part in _parts(nodes, self._part_items):
                for generation in list(self._held.values()):
                    await self._put(generation, part)
            late = self._settle(told, {node.item_id: node.version for node in nodes})
        metrics.REFRESHED.inc(len(nodes))
        self._report()
        return late

    @property
    def _part_items(self) -> int:
        """Large parts, in which a row costs least, only where more waits than one fetch."""
        behind = len(self._pending) > self._fetch_items
        return self._encode_items if behind else min(SMALL_PART, self._encode_items)

    async def _put(self, generation: Generation, nodes: Sequence[ItemNode]) -> None:
        try:
            async with self._inference.between():
                await self._inference.run(_put, generation, nodes, self._withdrawn(nodes))
        except Exception:
            # One item that the model cannot take must not keep the others out of the table.
            if len(nodes) == 1:
                metrics.REFUSED_ITEMS.inc()
                log.exception("the model cannot encode an item; its row stays as it was")
                return
            for node in nodes:
                await self._put(generation, [node])

    def _settle(self, told: Mapping[str, int], fetched: Mapping[str, int]) -> bool:
        late = False
        for item_id in told:
            pending, version = self._pending.pop(item_id), fetched.get(item_id)
            if version is not None and version >= pending.version:
                self._visible(item_id, pending)
                continue
            # It changed again meanwhile, or another replica's write is not to be read yet: to the end of the line.
            pending.tries += pending.version == told[item_id]
            if pending.tries < MAX_TRIES:
                self._pending[item_id] = pending
                late = late or pending.tries > 0
            elif version is None:
                log.warning("an item that was announced is unknown to graph_updater")
            else:  # what the owner answers is the truth, also after its store was reset
                self._visible(item_id, pending)
        return late

    def _visible(self, item_id: str, pending: _Pending) -> None:
        now = time.time()
        for appended_at in pending.appended_at:
            EVENT_TO_VISIBLE.labels("item").observe(max(0.0, now - appended_at))
        for waiter in self._waiters.get(item_id, ()):
            if not waiter.reflected.done() and self._reflects(item_id, waiter):
                waiter.reflected.set_result(None)

    def _reflects(self, item_id: str, waiter: _Waiter) -> bool:
        return all(
            generation.facts.reflects(item_id, waiter.partition, waiter.offset) for generation in self._held.values()
        )

    async def reflected(self, item_id: str, partition: int, offset: int) -> None:
        """Return once the item's row shows the record at that offset of `items`; cancel to stop waiting."""
        waiter = _Waiter(partition, offset, asyncio.get_running_loop().create_future())
        if self._reflects(item_id, waiter):
            return
        self._waiters.setdefault(item_id, []).append(waiter)
        try:
            await waiter.reflected
        finally:
            self._waiters[item_id].remove(waiter)
            if not self._waiters[item_id]:
                del self._waiters[item_id]

    async def want(self, versions: Set[str]) -> None:
        """Hold the generations of these bundles beside the current one, once they are built; let go of others."""
        self._wanted = versions
        async with self._turn:
            await self._inference.run(self._hold, self._current)
        self._report()

    async def promote(self, version: str) -> bool:
        """Make a generation that is held the current one; False where none is of this bundle."""
        async with self._turn:
            generation = self.of(version)
            if generation is not None:
                await self._inference.run(self._swap, generation, (), True)
        self._report()
        return generation is not None

    async def build(self, release: Release, *, current: bool = True) -> None:
        """Encode the whole catalogue for a release, then serve it: as the current one, or beside it where it is
        wanted. On any error what is there stays.

        Raises what the model raises, what `afford` raises, and Unavailable, DeadlineExceeded or Overloaded where
        graph_updater does not answer.
        """
        generation = Generation(release, self._inference.device)
        self._touched = set()
        try:
            await self._collect(generation)
            await self._catch_up(generation)
            async with self._turn:
                touched, self._touched = self._touched, set()
                await self._add(generation, sorted(touched))
                withdrawn = [item_id for item_id, pending in self._pending.items() if not pending.available]
                await self._inference.run(self._swap, generation, withdrawn, current)
                self._drop_satisfied()
        finally:
            self._touched = None
        self._report()

    async def _collect(self, generation: Generation) -> None:
        ids = sorted({*self._current.facts.item_ids, *self._pending})
        await self._add(generation, ids[: self._encode_items])
        await self._inference.run(self._afford, generation, len(ids))
        await self._add(generation, ids[self._encode_items :])
        async with self._inference.between():
            await self._inference.run(self._rehearse, generation)

    async def _catch_up(self, generation: Generation) -> None:
        """With what changed meanwhile, so that little is left for the moment when nothing else may change."""
        for _ in range(CATCH_UP_ROUNDS):
            if self._touched is None or len(self._touched) <= self._fetch_items:
                return
            touched, self._touched = self._touched, set()
            await self._add(generation, sorted(touched))

    def _swap(self, generation: Generation, withdrawn: Sequence[str], current: bool) -> None:
        # What was withdrawn after its state was fetched must not come back with the new generation.
        generation.facts.withdraw(withdrawn)
        if current:
            self._current = generation
        self._hold(generation)

    def _hold(self, generation: Generation) -> None:
        held = {**self._held, generation.release.version: generation}
        self._held = {version: one for version, one in held.items() if one is self._current or version in self._wanted}

    def _drop_satisfied(self) -> None:
        for item_id, pending in list(self._pending.items()):
            if all(generation.facts.shows(item_id, pending.version) for generation in self._held.values()):
                self._visible(item_id, self._pending.pop(item_id))

    async def _add(self, generation: Generation, ids: Sequence[str]) -> None:
        for some in _parts(ids, self._fetch_items):
            nodes = await self._fetch(some, generation.release.space)
            for part in _parts(nodes, self._encode_items):
                async with self._inference.between():
                    await self._inference.run(generation.put, part)

    async def _fetch(self, ids: Sequence[str], space: str) -> list[ItemNode]:
        """The states of those that graph_updater knows."""
        if not ids:
            return []
        return await asyncio.to_thread(_decoded, await self._graph.items(ids, space, FETCH_SECONDS))

    def _withdrawn(self, nodes: Sequence[ItemNode]) -> list[str]:
        """Those told to be withdrawn by a newer version than was fetched."""
        pending = [(node, self._pending.get(node.item_id)) for node in nodes]
        return [node.item_id for node, told in pending if told and not told.available and told.version > node.version]

    def _report(self) -> None:
        facts = self._current.facts
        metrics.PENDING_ITEMS.set(len(self._pending))
        metrics.TABLE_ROWS.set(len(facts))
        metrics.TABLE_BYTES.set(sum(generation.table_bytes for generation in self._held.values()))
        metrics.AVAILABLE_ROWS.set(int(facts.available.sum()))


def _put(generation: Generation, nodes: Sequence[ItemNode], withdrawn: Sequence[str]) -> None:
    generation.put(nodes)
    generation.facts.withdraw(withdrawn)


def _decoded(answers: Sequence[Node]) -> list[ItemNode]:
    nodes = []
    for answer in answers:
        if not answer.found:
            continue
        try:
            node = item_from_bytes(answer.state)
        except msgspec.DecodeError:
            log.exception("an item's state cannot be read")
            continue
        nodes.append(msgspec.structs.replace(node, version=answer.version))
    return nodes


def _parts(values: Sequence[T], size: int) -> list[Sequence[T]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
