"""A log to training samples: what would have been known at the time, and nothing else.

A case is one user at one time: their state folded over strictly earlier facts, and the items they then met for the
first time. A window is a stretch of cases that share one view of the catalogue: every item's state folded over
facts strictly before the window's first case. Both use the fold and the bounds that serving uses.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from math import ceil, inf, nextafter
from pathlib import Path
from typing import Final, Protocol

from shared.events import Erasure, Event, Interaction, Item, ItemSemantics, Opinions, Source
from shared.graph.fold import ItemFact, UserFact, edges_of, fold_item, fold_user
from shared.graph.state import ItemNode, UserState

FOLDED_AT_ONCE: Final = 1000
NOWHERE = Source("", 0, 0, 0.0)  # samples are told apart by event time; who wrote a fact where is not asked


@dataclass(frozen=True)
class Case:
    """`user` as of just before `ts`, and the items met at `ts` that the state does not hold yet."""

    ts: float
    user: UserState
    targets: tuple[str, ...]


class Logged(Protocol):
    """The facts of a log by node: in memory (`Log`), or on disk (`shared.models.log_store`)."""

    @property
    def times(self) -> Sequence[float]:
        """Of interactions, ascending."""
        ...

    @property
    def interactions(self) -> int: ...

    @property
    def user_count(self) -> int: ...

    @property
    def item_count(self) -> int: ...

    @property
    def newest(self) -> float:
        """The time of the newest fact."""
        ...

    @property
    def spool(self) -> Path | None:
        """A folder for what is too large for memory; None: nothing is."""
        ...

    def before(self, ts: float) -> int:
        """How many interactions are strictly earlier."""
        ...

    def until(self, ts: float) -> "Logged":
        """The log as it was just before `ts`; nodes of which nothing was known by then are not in it."""
        ...

    def users(self) -> Iterator[tuple[str, Sequence[tuple[float, UserFact]]]]:
        """By id; facts in order of (event time, id)."""
        ...

    def items(self, since: float = -inf, until: float = inf) -> Iterator[tuple[str, Iterable[tuple[float, ItemFact]]]]:
        """By id, with the facts since <= ts < until, to be read before the next item is asked for; items without any
        are passed over."""
        ...


@dataclass
class Log:
    """In memory. The facts by node, each list in order of (event time, id)."""

    by_user: dict[str, list[tuple[float, UserFact]]] = field(default_factory=lambda: defaultdict(list))
    by_item: dict[str, list[tuple[float, ItemFact]]] = field(default_factory=lambda: defaultdict(list))
    times: list[float] = field(default_factory=list)  # of interactions, ascending

    spool: Path | None = None

    @property
    def interactions(self) -> int:
        return len(self.times)

    @property
    def user_count(self) -> int:
        return len(self.by_user)

    @property
    def item_count(self) -> int:
        return len(self.by_item)

    @property
    def newest(self) -> float:
        return max((facts[-1][0] for facts in self.by_item.values() if facts), default=-inf)

    def before(self, ts: float) -> int:
        return bisect_left(self.times, ts)

    def until(self, ts: float) -> "Log":
        users = {user_id: facts[: bisect_left(facts, ts, key=_time)] for user_id, facts in self.by_user.items()}
        items = {item_id: facts[: bisect_left(facts, ts, key=_time)] for item_id, facts in self.by_item.items()}
        return Log(
            defaultdict(list, {user_id: facts for user_id, facts in users.items() if facts}),
            defaultdict(list, {item_id: facts for item_id, facts in items.items() if facts}),
            self.times[: self.before(ts)],
        )

    def users(self) -> Iterator[tuple[str, Sequence[tuple[float, UserFact]]]]:
        for user_id in sorted(self.by_user):
            if facts := self.by_user[user_id]:
                yield user_id, facts

    def items(self, since: float = -inf, until: float = inf) -> Iterator[tuple[str, Iterable[tuple[float, ItemFact]]]]:
        for item_id in sorted(self.by_item):
            facts = self.by_item[item_id]
            start = bisect_left(facts, since, key=_time)
            if found := facts[start : bisect_left(facts, until, lo=start, key=_time)]:
                yield item_id, found


def read_log(events: Iterable[Event], space: str) -> Log:
    """Sort facts into nodes. Each interaction counts once however often it was logged; facts that an erasure
    covers do not exist, for items neither; facts of another space are passed over.
    """
    erased: dict[str, float] = {}
    interactions: dict[str, Interaction] = {}
    opinions: list[Opinions] = []  # as logged: the fold is idempotent, and it picks between versions
    log = Log()
    for event in events:
        if isinstance(event, Erasure):
            erased[event.user_id] = max(erased.get(event.user_id, 0.0), event.erased_at)
        elif isinstance(event, Interaction):
            held = interactions.get(event.event_id)
            if held is None or _order(event) > _order(held):
                interactions[event.event_id] = event
        elif isinstance(event, Opinions) and event.space == space:
            opinions.append(event)
        elif isinstance(event, Item) or (isinstance(event, ItemSemantics) and event.space == space):
            log.by_item[event.item_id].append((event.ts, event))
    facts: list[Interaction | Opinions] = [*sorted(interactions.values(), key=_order), *opinions]
    gather(log, (fact for fact in facts if fact.ts > erased.get(fact.user_id, 0.0)))
    return log


def gather(log: Log, facts: Iterable[Interaction | Opinions]) -> None:
    """Put users' facts into the log, on both sides. Of one time the earlier given stays the earlier."""
    for fact in facts:
        log.by_user[fact.user_id].append((fact.ts, fact))
        log.by_item[fact.item_id].append((fact.ts, edges_of(fact, NOWHERE)))
        if isinstance(fact, Interaction):
            log.times.append(fact.ts)
    for of_user in log.by_user.values():
        of_user.sort(key=_time)
    for of_item in log.by_item.values():
        of_item.sort(key=_time)
    log.times.sort()


def split_time(split: str, times: Sequence[float]) -> float:
    """The first moment of the test. `split`: the last day (UTC) before it, as 2014-02-07, or a share of `times`,
    which are the interactions', ascending."""
    day = day_of(split)
    if day is not None:
        return (day + timedelta(days=1)).timestamp()
    return share_time(float(split), times)


def moments(times: Sequence[float], split: str, validation: float) -> tuple[float, float]:
    """When validation and when the test begins: validation is the last share of what is before the test, and is empty
    where nothing is. `times`: the interactions', ascending."""
    test = split_time(split, times)
    before = times[: bisect_left(times, test)]
    return share_time(1 - validation, before) if before else test, test


def share_time(share: float, times: Sequence[float]) -> float:
    """The moment just after at least `share` of `times`; what happened at one time stays together."""
    last = max(0, ceil(share * len(times)) - 1)
    return nextafter(times[last], float("inf"))


def is_split(value: str) -> bool:
    """Whether `split_time` takes it: a day, or a share between 0 and 1."""
    try:
        return 0 < float(value) < 1
    except ValueError:
        return day_of(value) is not None


def day_of(value: str) -> datetime | None:
    """A day as 2014-02-07, at its first moment (UTC); None for anything else."""
    try:
        return datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None


def cases(
    log: Logged, start: float, end: float, repeats: bool = False, asks: Callable[[str], bool] = lambda user_id: True
) -> list[Case]:
    """Every case with start <= ts < end of users that ask, in order of (ts, user). `repeats`: items met before are
    targets too."""
    asking = ((user_id, facts) for user_id, facts in log.users() if asks(user_id) and facts[-1][0] >= start)
    found = [case for user_id, facts in asking for case in _cases_of(user_id, facts, start, end, repeats)]
    found.sort(key=lambda case: (case.ts, case.user.user_id))
    return found


def items_before(log: Logged, ts: float) -> list[ItemNode]:
    """The catalogue as of just before `ts`: items of which something was known by then, by id."""
    return [_folded(ItemNode(item_id), facts) for item_id, facts in log.items(until=ts)]


class Catalogue:
    """The catalogue as of growing times: each fact is folded once."""

    def __init__(self, log: Logged) -> None:
        self._log = log
        self._nodes: dict[str, ItemNode] = {}
        self._ts = -inf

    def advance(self, ts: float) -> set[str]:
        """Fold everything strictly before `ts`; answers which items changed. Raises ValueError for going back."""
        if ts < self._ts:
            raise ValueError("a catalogue only advances")
        changed = set()
        for item_id, facts in self._log.items(self._ts, ts):
            node = self._nodes.get(item_id, ItemNode(item_id))
            self._nodes[item_id] = _folded(node, facts)
            changed.add(item_id)
        self._ts = ts
        return changed

    def nodes(self) -> list[ItemNode]:
        """By id."""
        return [self._nodes[item_id] for item_id in sorted(self._nodes)]


def windows(found: Sequence[Case], count: int) -> list[list[Case]]:
    """At most `count` stretches of about equally many cases; cases of one time are never parted."""
    size = max(1, -(-len(found) // count))
    out: list[list[Case]] = []
    for case in found:
        if not out or (len(out[-1]) >= size and case.ts > out[-1][-1].ts):
            out.append([])
        out[-1].append(case)
    return out


def _folded(node: ItemNode, facts: Iterable[tuple[float, ItemFact]]) -> ItemNode:
    """A few at a time: all facts of a popular item may be more than memory holds."""
    rest = iter(facts)
    while some := list(islice(rest, FOLDED_AT_ONCE)):
        node = fold_item(node, [fact for _, fact in some])
    return node


def _cases_of(
    user_id: str, facts: Sequence[tuple[float, UserFact]], start: float, end: float, repeats: bool
) -> Iterable[Case]:
    user, at = UserState(user_id), 0
    while at < len(facts) and facts[at][0] < end:
        ts = facts[at][0]
        to = at
        while to < len(facts) and facts[to][0] == ts:
            to += 1
        now = [fact for _, fact in facts[at:to]]
        if ts >= start:
            seen = set() if repeats else {slot.item_id for slot in user.interactions}
            met = dict.fromkeys(fact.item_id for fact in now if isinstance(fact, Interaction))
            targets = tuple(item_id for item_id in met if item_id not in seen)
            if targets:
                yield Case(ts, user, targets)
        user, at = fold_user(user, now), to


def _time(timed: tuple[float, object]) -> float:
    return timed[0]


def _order(fact: Interaction) -> tuple[float, str, str, str, str]:
    return (fact.ts, fact.event_id, fact.item_id, fact.kind, fact.user_id)
