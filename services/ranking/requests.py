"""What a Rank call may ask: validated once, at the edge, into a Query."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeVar

from msgspec import Struct

from services.ranking import pages
from shared import topics
from shared.errors import InvalidRequest
from shared.events import MAX_ID_CHARS
from shared.models.diversity import Method
from shared.pb.finestream.v1 import position_pb2, ranking_pb2

M = TypeVar("M")
Filtered = ranking_pb2.RankRequest | ranking_pb2.RankingServiceSimilarItemsRequest
Prices = tuple[float, float]  # from, to
DEFAULT_K: Final = 10
MAX_CANDIDATES: Final = 10_000
MAX_CONTEXT: Final = 50
MAX_EXCLUDES: Final = 1_000
MAX_CATEGORIES: Final = 32
MAX_AFTER: Final = 64
MAX_BATCH: Final = 256
DIVERSITY_METHODS: Final[dict[int, Method]] = {
    ranking_pb2.DIVERSITY_METHOD_MMR: "mmr",
    ranking_pb2.DIVERSITY_METHOD_DPP: "dpp",
}
ExplorationMethod = Literal["epsilon", "ucb"]
EXPLORATION_METHODS: Final[dict[int, ExplorationMethod]] = {
    ranking_pb2.EXPLORATION_METHOD_EPSILON: "epsilon",
    ranking_pb2.EXPLORATION_METHOD_UCB: "ucb",
}
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# Topics whose facts become part of a user's state; `items` becomes part of an item's.
USER_TOPICS: Final = (topics.INTERACTIONS, topics.REVIEWS, topics.ERASURES)


class After(Struct, frozen=True, gc=False):
    """An event that must be reflected: where it lies and whose it is."""

    topic: str
    partition: int
    offset: int
    key: str


class Arrangement(Struct, frozen=True, gc=False):
    """How the k are chosen from the best candidates; as it stands, they are the k best."""

    diversity: float = 0.0  # 0 to 1
    diversity_method: Method = "mmr"
    per_category: int = 0  # 0: no limit
    exploration: float = 0.0  # 0 to 1
    exploration_method: ExplorationMethod = "epsilon"

    @property
    def by_score(self) -> bool:
        return not (self.diversity or self.per_category or self.exploration)


BY_SCORE: Final = Arrangement()


class Query(Struct, frozen=True, gc=False):
    """A valid RankRequest. `candidates` empty: the whole catalogue."""

    user_id: str
    k: int
    candidates: tuple[str, ...] = ()
    context: tuple[str, ...] = ()  # oldest first
    excludes: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    prices: Prices | None = None
    include_seen: bool = False
    after: tuple[After, ...] = ()
    explain: bool = True
    leave_out: bool = False  # explained by leaving each edge out
    arrangement: Arrangement = BY_SCORE
    paged: bool = False
    shown: tuple[str, ...] = ()  # on the pages before
    timings: bool = False

    @property
    def after_user(self) -> tuple[After, ...]:
        return tuple(after for after in self.after if after.topic != topics.ITEMS)

    @property
    def after_items(self) -> tuple[After, ...]:
        return tuple(after for after in self.after if after.topic == topics.ITEMS)


class SimilarQuery(Struct, frozen=True, gc=False):
    """A valid RankingServiceSimilarItemsRequest."""

    item_id: str
    k: int
    excludes: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    prices: Prices | None = None


def read_similar(request: ranking_pb2.RankingServiceSimilarItemsRequest, k_limit: int) -> SimilarQuery:
    """As read."""
    _check_id("item_id", request.item_id)
    return SimilarQuery(
        request.item_id,
        _k(request, k_limit),
        _ids("exclude_items", request.exclude_items, MAX_EXCLUDES),
        _ids("categories", request.categories, MAX_CATEGORIES),
        _prices(request),
    )


def read(request: ranking_pb2.RankRequest, k_limit: int, default: Arrangement = BY_SCORE) -> Query:
    """`default`: what counts where the request says nothing. Raises InvalidRequest with a sentence that says what to
    change.
    """
    _check_id("user_id", request.user_id)
    if CONTROL.search(request.user_id):
        raise InvalidRequest("user_id has control characters", "user_id")
    return Query(
        user_id=request.user_id,
        k=_k(request, k_limit),
        candidates=_ids("candidates", request.candidates, MAX_CANDIDATES),
        context=_ids("context_items", request.context_items, MAX_CONTEXT),
        excludes=_ids("exclude_items", request.exclude_items, MAX_EXCLUDES),
        categories=_ids("categories", request.categories, MAX_CATEGORIES),
        prices=_prices(request),
        include_seen=request.include_seen,
        after=_afters(request),
        explain=not request.without_explanations,
        leave_out=request.explanation_method == ranking_pb2.EXPLANATION_METHOD_LEAVE_ONE_OUT,
        arrangement=_arrangement(request, default),
        paged=request.paged or bool(request.page_token),
        shown=pages.shown(request.user_id, request.page_token) if request.page_token else (),
        timings=request.with_timings,
    )


def read_batch(request: ranking_pb2.RankBatchRequest, k_limit: int, default: Arrangement = BY_SCORE) -> list[Query]:
    """As read, for each; the message of an invalid one names its index."""
    if len(request.requests) > MAX_BATCH:
        raise InvalidRequest(
            f"requests has {len(request.requests)} entries; at most {MAX_BATCH} are taken, send several", "requests"
        )
    queries = []
    for index, one in enumerate(request.requests):
        try:
            queries.append(read(one, k_limit, default))
        except InvalidRequest as error:
            raise InvalidRequest(f"requests[{index}]: {error}", f"requests[{index}].{error.field}") from None
    return queries


def _k(request: Filtered, limit: int) -> int:
    k = request.k if request.HasField("k") else min(DEFAULT_K, limit)
    if not 1 <= k <= limit:
        raise InvalidRequest(f"k is {k}; ask for 1 to {limit} items, or leave k out for {min(DEFAULT_K, limit)}", "k")
    return k


def _prices(request: Filtered) -> Prices | None:
    if not (request.HasField("min_price") or request.HasField("max_price")):
        return None
    low = _price("min_price", request.min_price)
    high = _price("max_price", request.max_price) if request.HasField("max_price") else math.inf
    if low > high:
        raise InvalidRequest(
            f"min_price is {low:g} and max_price {high:g}; send a min_price that is not above", "min_price"
        )
    return low, high


def _price(field: str, value: float) -> float:
    if not 0.0 <= value < math.inf:  # NaN too
        raise InvalidRequest(f"{field} is {value:g}; send 0 or more, or leave it out for no bound", field)
    return value


def _arrangement(request: ranking_pb2.RankRequest, default: Arrangement) -> Arrangement:
    if request.max_per_category < 0:
        raise InvalidRequest(
            f"max_per_category is {request.max_per_category}; send 1 or more, or 0 for no limit", "max_per_category"
        )
    return Arrangement(
        _share("diversity", request.diversity) if request.HasField("diversity") else default.diversity,
        _method(request.diversity_method, DIVERSITY_METHODS, default.diversity_method),
        request.max_per_category,
        _share("exploration", request.exploration) if request.HasField("exploration") else default.exploration,
        _method(request.exploration_method, EXPLORATION_METHODS, default.exploration_method),
    )


def _share(field: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:  # NaN too
        raise InvalidRequest(f"{field} is {value:g}; send 0 to 1, or leave it out for the service's setting", field)
    return value


def _method(number: int, known: Mapping[int, M], default: M) -> M:
    """A newer client's method that is unknown here is the service's."""
    return known.get(number, default)


def _ids(field: str, values: Sequence[str], most: int) -> tuple[str, ...]:
    if not values:
        return ()
    if len(values) > most:
        raise InvalidRequest(f"{field} has {len(values)} entries; at most {most} are taken", field)
    for value in values:
        _check_id(field, value)
    return tuple(dict.fromkeys(values)) if field != "context_items" else tuple(values)


def _check_id(field: str, value: str) -> None:
    if not value:
        raise InvalidRequest(f"{field} is empty; send 1 to {MAX_ID_CHARS} characters", field)
    if len(value) > MAX_ID_CHARS:
        raise InvalidRequest(f"{field} has {len(value)} characters; at most {MAX_ID_CHARS} are taken", field)


def _afters(request: ranking_pb2.RankRequest) -> tuple[After, ...]:
    positions = request.after
    if len(positions) > MAX_AFTER:
        raise InvalidRequest(f"after has {len(positions)} entries; at most {MAX_AFTER} are taken", "after")
    return tuple([_after(request.user_id, position) for position in positions])


def _after(user_id: str, position: position_pb2.Position) -> After:
    if position.partition < 0 or position.offset < 0:
        raise InvalidRequest("after has a negative partition or offset; send Publish's answer as it came", "after")
    if position.topic == topics.ITEMS:
        _check_id("after.key", position.key)
    elif position.topic not in USER_TOPICS:
        raise InvalidRequest(
            f"after names the topic {position.topic!r}; only"
            f" {', '.join((*USER_TOPICS, topics.ITEMS))} can be waited for",
            "after",
        )
    elif position.key not in ("", user_id):
        # It would never show in this user's state, so the call could only run into its deadline.
        raise InvalidRequest("after names another user's event; send only this user's events and items", "after")
    return After(position.topic, position.partition, position.offset, position.key or user_id)
