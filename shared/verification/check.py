"""Live states of a sample compared with the log, while traffic goes on. Memory is bounded by the sample."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic

from msgspec import Struct

from shared import folding
from shared.events import Event, Source
from shared.folding import Chosen, Fact, Folding, Node, Sample, Takes
from shared.graph.checks import Checks
from shared.graph.fold import ItemFact, UserFact
from shared.graph.state import ItemNode, UserState
from shared.verification import differences
from shared.verification.differences import FieldDifference, Kind, KindName
from shared.whole_log import Log, Take, event_of

POLL_SECONDS: Final = 0.5
STREAMS: Final = ("users", "items")  # of graph_updater: what another stream buried is a fact here
Place = tuple[str, int, int]  # topic, partition, offset
Ask = Callable[[Sequence[str]], Awaitable[Mapping[str, Node]]]


class NodeDifference(Struct, frozen=True):
    """A node whose live state is not what the log gives. `is_known`: there is a live state at all."""

    kind: KindName
    id: str
    is_known: bool
    fields: list[FieldDifference]


class Outcome(Struct, frozen=True):
    """Of one kind."""

    compared: int
    equal: int
    different: int


class Report(Struct, frozen=True):
    users: Outcome
    items: Outcome
    nodes: list[NodeDifference]
    holes: list[str]  # of the log, a sentence each: what differs may lie in them


@dataclass(frozen=True)
class Live:
    """Asks for live states; nodes that are not known are left out."""

    users: Ask[UserState]
    items: Ask[ItemNode]


class Side(Generic[Node, Fact]):
    """The sampled nodes of one kind: their folds at two ends of the log, and the live states asked for in between."""

    def __init__(
        self, kind: Kind[Node], states: Mapping[str, Node], upper: Folding[Node, Fact],
        ask: Ask[Node],
    ) -> None:  # fmt: skip
        self.waiting = set(states)
        self._kind: Final[Kind[Node]] = kind
        self._ask: Final[Ask[Node]] = ask
        self._count = len(states)
        self._lower: dict[str, Node] = dict(states)
        self._upper: Final[Folding[Node, Fact]] = upper  # an empty one
        self._upper.states.update(states)
        self._live: Mapping[str, Node] = {}

    def add(self, node: str, fact: Fact) -> None:
        if node in self.waiting:
            self._upper.add(node, fact)

    async def ask(self) -> None:
        self._live = await self._ask(sorted(self.waiting))

    def settle(self) -> None:
        """Those whose live state is between the folds are done."""
        self._upper.end()
        self.waiting = {node for node in self.waiting if not differences.is_between(self._kind, *self._states(node))}

    def replace(self, nodes: Collection[str], states: Mapping[str, Node]) -> None:
        """What these nodes fold to after all; one without a fact left is as if it had never been."""
        for node in nodes:
            self._lower[node] = self._upper.states[node] = states.get(node, self._kind.empty(node))

    @property
    def outcome(self) -> Outcome:
        return Outcome(self._count, self._count - len(self.waiting), len(self.waiting))

    def differences(self) -> list[NodeDifference]:
        return [
            NodeDifference(
                self._kind.name, node, node in self._live, differences.differences(self._kind, *self._states(node))
            )
            for node in sorted(self.waiting)
        ]  # fmt: skip

    def _states(self, node: str) -> tuple[Node, Node, Node]:
        return self._live.get(node, self._kind.empty(node)), self._lower[node], self._upper.states[node]


class Check:
    """Reads again what differs, from both sides, until nothing does or the time is over."""

    def __init__(
        self, log: Log, checks: Checks, users: Side[UserState, UserFact], items: Side[ItemNode, ItemFact]
    ) -> None:
        self._log = log
        self._checks = checks
        self._users = users
        self._items = items
        self._buried: set[Place] = set()

    async def run(self, seconds: float) -> Report:
        deadline = time.monotonic() + seconds
        while True:
            await self._round()
            if not (self._users.waiting or self._items.waiting) or time.monotonic() >= deadline:
                nodes = [*self._users.differences(), *self._items.differences()]
                return Report(self._users.outcome, self._items.outcome, nodes, self._log.holes)
            await asyncio.sleep(POLL_SECONDS)

    async def _round(self) -> None:
        await self._leave_out_buried()
        await self._users.ask()
        await self._items.ask()
        await self._log.read_on(self._taking(self._users, self._items))
        self._users.settle()
        self._items.settle()

    async def _leave_out_buried(self) -> None:
        """A record that the stream buried is no fact. Its nodes are folded again, for a join cannot be undone."""
        users: set[str] = set()
        items: set[str] = set()
        async for letter in self._log.new_letters():
            event = event_of(letter.record) if letter.service in STREAMS else None
            if isinstance(event, UserFact) and event.user_id in self._users.waiting:
                users.add(event.user_id)
                self._buried.add(_place(letter.record.source))
            elif isinstance(event, ItemFact) and event.item_id in self._items.waiting:
                items.add(event.item_id)
                self._buried.add(_place(letter.record.source))
        if users or items:
            await self._fold_again(users, items)

    async def _fold_again(self, users: set[str], items: set[str]) -> None:
        of_users, of_items = folding.users(), folding.items()
        takes = self._taking(Chosen(users, of_users), Chosen(items, of_items))
        await self._log.read(takes)
        of_users.end()
        of_items.end()
        self._users.replace(users, of_users.states)
        self._items.replace(items, of_items.states)

    def _taking(self, users: Takes[UserFact], items: Takes[ItemFact]) -> Take:
        def take(event: Event, source: Source) -> None:
            if _place(source) not in self._buried and self._checks.problem(event) is None:
                folding.give(event, users, items)

        return take


async def check(
    log: Log, live: Live, checks: Checks, *, users: int, items: int, seed: int, seconds: float
) -> Report:  # fmt: skip
    """Compare so many users and items. Raises as Log and the calls in `live` do."""
    of_users, of_items = folding.users(), folding.items()
    sampled_users, sampled_items = Sample(users, seed, of_users), Sample(items, seed, of_items)
    await log.start()

    def take(event: Event, _: Source) -> None:
        if checks.problem(event) is None:
            folding.give(event, sampled_users, sampled_items)

    await log.read(take)
    of_users.end()
    of_items.end()
    sides = (
        Side(differences.USERS, of_users.states, folding.users(), live.users),
        Side(differences.ITEMS, of_items.states, folding.items(), live.items),
    )
    return await Check(log, checks, *sides).run(seconds)


def _place(source: Source) -> Place:
    return (source.topic, source.partition, source.offset)
