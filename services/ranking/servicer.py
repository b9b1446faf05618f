"""RankingService on the wire: validation, deadlines, and many requests in one call."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from services.ranking import metrics, requests
from services.ranking.pipeline import Pipeline
from services.ranking.similar import Similar
from shared.errors import DeadlineExceeded, InvalidRequest, Unavailable
from shared.pb.finestream.v1 import ranking_pb2, ranking_pb2_grpc
from shared.rpc import remaining_seconds
from shared.service import Health

T = TypeVar("T")


class Ranking(ranking_pb2_grpc.RankingServiceServicer):
    def __init__(
        self,
        pipeline: Pipeline,
        similar: Similar,
        health: Health,
        *,
        k_limit: int,
        deadline_seconds: float,
        max_bytes: int,
        arrangement: requests.Arrangement,
    ) -> None:
        self._pipeline = pipeline
        self._similar = similar
        self._health = health
        self._k_limit = k_limit
        self._deadline_seconds = deadline_seconds
        self._max_bytes = max_bytes
        self._arrangement = arrangement

    def admit(self, context: Any) -> None:
        """Refuse what is not to be begun, before the message is parsed."""
        self._pipeline.admit(self._deadline(context))

    async def Rank(self, request: ranking_pb2.RankRequest, context: Any) -> ranking_pb2.RankResponse:  # noqa: N802
        deadline = self._deadline(context)
        query = _valid(lambda: requests.read(request, self._k_limit, self._arrangement))
        return await self._pipeline.rank(query, deadline)

    async def RankBatch(  # noqa: N802
        self, request: ranking_pb2.RankBatchRequest, context: Any
    ) -> ranking_pb2.RankBatchResponse:
        deadline = self._deadline(context)
        queries = _valid(lambda: requests.read_batch(request, self._k_limit, self._arrangement))
        answers = await _all_or_none([self._pipeline.rank(query, deadline) for query in queries])
        response = ranking_pb2.RankBatchResponse(responses=answers)
        if response.ByteSize() > self._max_bytes:
            raise InvalidRequest(
                f"the answers have {response.ByteSize()} bytes and a message takes {self._max_bytes};"
                " send fewer requests, a smaller k, or without_explanations"
            )
        return response

    async def SimilarItems(  # noqa: N802
        self, request: ranking_pb2.RankingServiceSimilarItemsRequest, context: Any
    ) -> ranking_pb2.RankingServiceSimilarItemsResponse:
        deadline = self._deadline(context)
        query = _valid(lambda: requests.read_similar(request, self._k_limit))
        return await self._similar.items(query, deadline)

    def _deadline(self, context: Any) -> float:
        if not self._health.is_ready:
            raise Unavailable(f"ranking is not ready ({self._health.reason}); try again shortly")
        left = remaining_seconds(context, self._deadline_seconds)
        if left <= 0:
            metrics.REFUSED.labels("deadline").inc()
            raise DeadlineExceeded("the deadline had passed on arrival; allow more time")
        return time.monotonic() + left


def _valid(read: Callable[[], T]) -> T:
    try:
        return read()
    except InvalidRequest:
        metrics.REFUSED.labels("invalid").inc()
        raise


async def _all_or_none(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All answers in order; the first error ends the others and is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
