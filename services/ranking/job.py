"""One request on its way through the stages."""

from random import Random
from typing import Any

from msgspec import Struct, field
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
NOBODY = UserState("")
Explanation = dict[str, Any]  # the fields of the message: made within the answer it takes a fifth of the time
_CHANCE = Random()  # noqa: S311  # ids are no secret; to ask the system for each would let go of the interpreter


class Hydrated(Struct, frozen=True, gc=False):
    """A user's state as Hydrate got it. `node` None: graph_updater does not answer and none is remembered."""

    node: Node | None
    space: str
    fresh: bool = True  # False: the last known state, or none


class Pick(Struct, frozen=True, gc=False):
    row: int
    score: float
    propensity: float = 1.0
    placement: "ranking_pb2.Placement" = RANKED


class Job(Struct, eq=False):
    query: Query
    deadline: float  # on time.monotonic's clock
    seconds: dict[str, float] = {}  # of its stages, as far as it has come
    request_id: str = field(default_factory=lambda: f"{_CHANCE.getrandbits(128):032x}")
    # Hydrate
    hydrated: Hydrated | None = None
    # Assign
    variant: str = ""  # of the experiment; empty: the control
    detour: str = ""  # why the user's own variant does not rank it
    # Ladder
    user: UserState = NOBODY  # the context included
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
    picks: list[Pick] = []
    pinned: list[tuple[int, Pick]] = []  # place from 1, ascending
    others: list[Pick] = []  # of the pool, not among the picks
    policy: str = ""  # how chance took part
    explanations: list[Explanation] = []
    item_ids: list[str] = []  # of the picks
    response: ranking_pb2.RankResponse | None = None

    @property
    def places(self) -> int:
        """How many are chosen."""
        return self.query.k - len(self.pinned)
