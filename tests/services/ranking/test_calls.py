"""RankingService over real gRPC: calls that nobody waits for leave nothing behind, and whatever is asked is answered."""

import asyncio
import gc
import tracemalloc
from typing import Any, Final

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.pb.finestream.v1 import ranking_pb2, ranking_pb2_grpc
from shared.pb.finestream.v1.position_pb2 import Position
from shared.pb.finestream.v1.ranking_pb2 import RankBatchRequest, RankingServiceSimilarItemsRequest, RankRequest
from tests.parts import until
from tests.services.ranking.conftest import World, served
from tests.services.ranking.doubles import item_of, user_of

METHOD: Final = "/finestream.v1.RankingService/"
ROUND: Final = 1_000
GROWTH_BYTES: Final = 20.0  # a call: of 10,000 calls, 200 KB; a task or a request that stays takes kilobytes
OK: Final = grpc.StatusCode.OK
DOCUMENTED: Final = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND,
}  # fmt: skip


async def stocked(world: World) -> None:
    await world.stock([item_of(f"i{n}", users=n, categories=[f"c{n % 2}"]) for n in range(12)])
    await world.publish()
    world.graph.put(user_of("u", ["i1", "i2"]), user_of("v", ["i3"]))


async def left_alone(stub: Any, calls: int) -> None:
    """So many calls that are cancelled on their way, or whose deadline passes on its way; one in fifty is waited for.

    So there is a place for each.
    """
    for n in range(0, calls, 49):
        started = [stub.Rank(RankRequest(user_id="u"), timeout=0.001 if i % 2 else 5.0) for i in range(49)]
        patient = stub.Rank(RankRequest(user_id="v"), timeout=5.0)
        await asyncio.sleep(0.001 * (n % 4))
        for call in started:
            call.cancel()
        await asyncio.gather(*started, return_exceptions=True)
        assert (await patient).rung == ranking_pb2.RUNG_FULL


async def test_ten_thousand_calls_that_nobody_waits_for_leave_no_task_and_no_memory(world: World) -> None:
    await stocked(world)
    async with served(world) as channel:
        stub = ranking_pb2_grpc.RankingServiceStub(channel)
        await left_alone(stub, ROUND)  # what is made once
        before = len(asyncio.all_tasks())
        tracemalloc.start()
        try:
            await left_alone(stub, ROUND)
            held = _memory()
            await left_alone(stub, 8 * ROUND)
            await until(lambda: len(asyncio.all_tasks()) <= before, 10, "every task has ended")
            grown = _memory() - held
        finally:
            tracemalloc.stop()
        assert grown < 8 * ROUND * GROWTH_BYTES


def _memory() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


IDS: Final = st.one_of(
    st.sampled_from(["", "u", "v", "i1", "i11", "c1", "x" * 256, "x" * 257, "\x00", "\x7f", "é🙂"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
MANY: Final = st.lists(IDS, max_size=8) | st.just(["i1"] * 51) | st.just([f"n{n}" for n in range(1_001)])
SHARES: Final = st.none() | st.floats(0, 1) | st.floats(width=32)
PRICES: Final = st.none() | st.floats(0, 10) | st.floats()
INT32, INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
POSITIONS: Final = st.builds(
    Position, topic=st.sampled_from(["items", "reviews", "interactions", "nope", ""]), partition=INT32, offset=INT64,
    key=IDS,
)  # fmt: skip
REQUESTS: Final = st.builds(
    RankRequest, user_id=IDS, k=st.none() | st.integers(0, 101) | INT32, candidates=MANY, context_items=MANY,
    exclude_items=MANY, categories=MANY, include_seen=st.booleans(), without_explanations=st.booleans(),
    after=st.lists(POSITIONS, max_size=2) | st.just([Position(topic="items", key="i1")] * 65),
    diversity=SHARES, diversity_method=st.integers(0, 9), max_per_category=st.integers(-1, 3) | INT32,
    exploration=SHARES, exploration_method=st.integers(0, 9), paged=st.booleans(),
    page_token=st.just("") | st.text("AZaz09-_=", max_size=40), with_timings=st.booleans(),
    explanation_method=st.integers(0, 9), min_price=PRICES, max_price=PRICES,
)  # fmt: skip
LIKE: Final = st.builds(
    RankingServiceSimilarItemsRequest, item_id=IDS, k=st.none() | INT32, exclude_items=MANY, categories=MANY,
    min_price=PRICES, max_price=PRICES,
)  # fmt: skip
CALLS: Final = st.one_of(
    st.tuples(st.just("Rank"), REQUESTS.map(RankRequest.SerializeToString)),
    st.tuples(
        st.just("RankBatch"),
        st.lists(REQUESTS, max_size=4).map(lambda asked: RankBatchRequest(requests=asked).SerializeToString()),
    ),
    st.tuples(st.just("SimilarItems"), LIKE.map(RankingServiceSimilarItemsRequest.SerializeToString)),
    st.tuples(st.sampled_from(["Rank", "RankBatch", "SimilarItems"]), st.binary(max_size=200)),
)


@pytest.mark.timeout(120)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(CALLS, min_size=1, max_size=6))
async def test_whatever_is_asked_gets_an_answer_or_a_documented_status(
    world: World, calls: list[tuple[str, bytes]]
) -> None:
    if not world.catalogue.current.release.version:
        await stocked(world)
    async with served(world) as channel:
        asked = [channel.unary_unary(METHOD + name)(data, timeout=0.3) for name, data in calls]
        async with asyncio.timeout(5):
            await asyncio.gather(*asked, return_exceptions=True)
            codes = [await call.code() for call in asked]
            answer = await ranking_pb2_grpc.RankingServiceStub(channel).Rank(RankRequest(user_id="u"), timeout=5)
    assert set(codes) <= {OK, *DOCUMENTED}
    assert answer.rung == ranking_pb2.RUNG_FULL
    for code, call in zip(codes, asked, strict=True):
        assert code is OK or await call.details()
