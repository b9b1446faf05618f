"""One request on its way through the stages."""

import os
from dataclasses import KW_ONLY, dataclass, field

import msgspec
from torch import Tensor

from services.ranking.graph import Node
from services.ranking.requests import Query
from shared.graph.state import UserState
from shared.pb.finestream.v1 import ranking_pb2

FULL = ranking_pb2.RUNG_FULL
CACHED = ranking_pb2.RUNG_CACHED
POPULAR = ranking_pb2.RUNG_POPULAR
RANKED = ranking_pb2.PLACEMENT_UNSPECIFIED
EXPLORED = ranking_pb2.PLACEMENT_EXPLORED
PINNED = ranking_pb2.PLACEMENT_PINNED
NAME_OF_RUNG = {FULL: "full", CACHED: "cached", POPULAR: "popular"}


@dataclass(frozen=True, slots=True)
class Hydrated:
    """A user's state as Hydrate got it. `node` None: graph_updater does not answer and none is remembered."""

    node: Node | None
    space: str
    fresh: bool = True  # False: the last known state, or none


class Pick(msgspec.Struct, frozen=True):  # made in a tenth of a dataclass's time, and by the hundreds
    row: int
    score: float
    propensity: float = 1.0
    placement: "ranking_pb2.Placement" = RANKED


@dataclass(slots=True, eq=False)
class Job:
    query: Query
    deadline: float  # on time.monotonic's clock
    _: KW_ONLY
    seconds: dict[str, float] = field(default_factory=dict)  # of its stages, as far as it has come
    request_id: str = field(default_factory=lambda: os.urandom(16).hex())
    # Hydrate
    hydrated: Hydrated | None = None
    # Assign
    variant: str = ""  # of the experiment; empty: the control
    detour: str = ""  # why the user's own variant does not rank it
    # Ladder
    user: UserState = field(default_factory=lambda: UserState(""))  # the context included
    history: tuple[int, ...] = ()  # rows of the user's items, newest first
    watermark: float = 0.0
    rung: "ranking_pb2.Rung" = POPULAR
    reason: str = ""
    # Source, Filter
    rows: set[int] | None = None  # None: the whole catalogue
    banned: set[int] = field(default_factory=set)
    within: Tensor | None = None  # (N,) bool: what bounds of the price and large categories leave; None: all
    wanted: int = 0  # how many of the best Select brings: the k, or what the k are chosen from
    # Select, Pin, Diversify, Explore, Explain, Respond
    picks: list[Pick] = field(default_factory=list)
    pinned: list[tuple[int, Pick]] = field(default_factory=list)  # place from 1, ascending
    others: list[Pick] = field(default_factory=list)  # of the pool, not among the picks
    policy: str = ""  # how chance took part
    explanations: list[ranking_pb2.Explanation] = field(default_factory=list)
    response: ranking_pb2.RankResponse | None = None

    @property
    def places(self) -> int:
        """How many are chosen."""
        return self.query.k - len(self.pinned)
