"""Ladder: unpack the user's state, put the context on top, and say on which rung the answer stands, and why."""

from collections.abc import Mapping
from typing import Final

import msgspec

from services.ranking.generation import Generation
from services.ranking.job import CACHED, FULL, POPULAR, Hydrated, Job
from shared.graph.state import MAX_INTERACTIONS, InteractionSlot, UserState, user_from_bytes, watermark
from shared.pb.finestream.v1 import ranking_pb2

CONTEXT_KIND: Final = "context"
CONTEXT_STEP_SECONDS: Final = 1e-3  # keeps the order of context items, which all happen now

NO_MODEL: Final = "no model has been published yet, so these are the popular items"
UNKNOWN: Final = (
    "nothing is known of this user, so these are the popular items; send context_items or publish events of the user"
)
NO_KNOWN_ITEM: Final = "no item of the user's history or context is in the catalogue, so these are the popular items"
SILENT_UNKNOWN: Final = "the users' states cannot be read and none is remembered, so these are the popular items"
SILENT_CONTEXT: Final = "the users' states cannot be read and none is remembered, so only the context was used"
SILENT_CACHED: Final = "the users' states cannot be read, so the last known one was used"


def place(jobs: list[Job], generation: Generation, now: float) -> None:
    """Fill in user, history, watermark, rung and reason; `now` in seconds since 1970."""
    for job in jobs:
        known = _state(job.query.user_id, job.hydrated)
        job.watermark = watermark(known)
        job.user = with_context(known, job.query.context, now)
        job.history = known_rows(job.user, generation.row_of)
        job.rung, job.reason = _rung(job, generation)


def with_context(user: UserState, context: tuple[str, ...], now: float) -> UserState:
    """The state as if the context's items (oldest first) were the user's newest interactions."""
    if not context:
        return user
    newest = max(now, user.interactions[0].ts if user.interactions else 0.0)
    slots = tuple(
        InteractionSlot(newest + i * CONTEXT_STEP_SECONDS, f"{CONTEXT_KIND}:{i}", item_id, CONTEXT_KIND)
        for i, item_id in enumerate(context)
    )
    interactions = (*reversed(slots), *user.interactions)[:MAX_INTERACTIONS]
    return msgspec.structs.replace(user, interactions=interactions)


def known_rows(user: UserState, row_of: Mapping[str, int]) -> tuple[int, ...]:
    """Rows of the items that the user met, newest first, each once."""
    met = [slot.item_id for slot in user.interactions] + [slot.other_id for slot in user.reviews]
    rows = dict.fromkeys(map(row_of.get, met))  # the first of equal ones stays
    return tuple(row for row in rows if row is not None)


def _state(user_id: str, hydrated: Hydrated | None) -> UserState:
    if hydrated is None or hydrated.node is None or not hydrated.node.found:
        return UserState(user_id)
    return user_from_bytes(hydrated.node.state)


def _rung(job: Job, generation: Generation) -> "tuple[ranking_pb2.Rung, str]":
    if generation.release.model is None:
        return POPULAR, NO_MODEL
    node, silent = (job.hydrated.node, not job.hydrated.fresh) if job.hydrated else (None, True)
    if not job.history:
        if job.user.interactions or job.user.reviews:
            return POPULAR, NO_KNOWN_ITEM
        return POPULAR, SILENT_UNKNOWN if silent else UNKNOWN
    if silent:
        return CACHED, SILENT_CONTEXT if node is None else SILENT_CACHED
    return FULL, ""
