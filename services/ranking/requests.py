"""What a Rank call may ask: validated once, at the edge, into a Query."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared import topics
from shared.errors import InvalidRequest
from shared.events import MAX_ID_CHARS
from shared.pb.finestream.v1 import position_pb2, ranking_pb2

DEFAULT_K: Final = 10
MAX_CANDIDATES: Final = 10_000
MAX_CONTEXT: Final = 50
MAX_EXCLUDES: Final = 1_000
MAX_CATEGORIES: Final = 32
MAX_AFTER: Final = 64
MAX_BATCH: Final = 256
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# Topics whose facts become part of a user's state; `items` becomes part of an item's.
USER_TOPICS: Final = (topics.INTERACTIONS, topics.REVIEWS, topics.ERASURES)


@dataclass(frozen=True, slots=True)
class After:
    """An event that must be reflected: where it lies and whose it is."""

    topic: str
    partition: int
    offset: int
    key: str


@dataclass(frozen=True, slots=True)
class Query:
    """A valid RankRequest. `candidates` empty: the whole catalogue."""

    user_id: str
    k: int
    candidates: tuple[str, ...] = ()
    context: tuple[str, ...] = ()  # oldest first
    excludes: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    include_seen: bool = False
    after: tuple[After, ...] = ()
    explain: bool = True
    timings: bool = False

    @property
    def after_user(self) -> tuple[After, ...]:
        return tuple(after for after in self.after if after.topic != topics.ITEMS)

    @property
    def after_items(self) -> tuple[After, ...]:
        return tuple(after for after in self.after if after.topic == topics.ITEMS)


def read(request: ranking_pb2.RankRequest, k_limit: int) -> Query:
    """Raises InvalidRequest with a sentence that says what to change."""
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
        include_seen=request.include_seen,
        after=_afters(request),
        explain=not request.without_explanations,
        timings=request.with_timings,
    )


def read_batch(request: ranking_pb2.RankBatchRequest, k_limit: int) -> list[Query]:
    """As read, for each; the message of an invalid one names its index."""
    if len(request.requests) > MAX_BATCH:
        raise InvalidRequest(
            f"requests has {len(request.requests)} entries; at most {MAX_BATCH} are taken, send several", "requests"
        )
    queries = []
    for index, one in enumerate(request.requests):
        try:
            queries.append(read(one, k_limit))
        except InvalidRequest as error:
            raise InvalidRequest(f"requests[{index}]: {error}", f"requests[{index}].{error.field}") from None
    return queries


def _k(request: ranking_pb2.RankRequest, limit: int) -> int:
    k = request.k if request.HasField("k") else min(DEFAULT_K, limit)
    if not 1 <= k <= limit:
        raise InvalidRequest(f"k is {k}; ask for 1 to {limit} items, or leave k out for {min(DEFAULT_K, limit)}", "k")
    return k


def _ids(field: str, values: Sequence[str], most: int) -> tuple[str, ...]:
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
    if len(request.after) > MAX_AFTER:
        raise InvalidRequest(f"after has {len(request.after)} entries; at most {MAX_AFTER} are taken", "after")
    return tuple(_after(request.user_id, position) for position in request.after)


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
