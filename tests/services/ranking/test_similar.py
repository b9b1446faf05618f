"""services/ranking/similar.py: the nearest by cosine, never the item itself, a withdrawn one or another category's."""

import asyncio
import time

import pytest
import torch
from torch.nn import functional as F

from services.ranking import requests
from services.ranking.requests import SimilarQuery
from services.ranking.similar import Similar
from shared.errors import FailedPrecondition, InvalidRequest, NotFound
from shared.pb.finestream.v1.ranking_pb2 import RankingServiceSimilarItemsRequest
from tests.services.ranking.conftest import World
from tests.services.ranking.doubles import item_of, vector_of

ITEMS = [f"i{n}" for n in range(30)]


def expected(item: str, of: list[str]) -> list[str]:
    cosine = {other: float(F.cosine_similarity(vector_of(item), vector_of(other), dim=0)) for other in of}
    return sorted((other for other in of if other != item), key=lambda other: -cosine[other])


@pytest.fixture
async def similar(world: World) -> Similar:
    await world.stock([item_of(i, categories=[f"c{n % 3}"], available=n != 9) for n, i in enumerate(ITEMS)])
    return world.similar


async def ids(similar: Similar, query: SimilarQuery) -> list[str]:
    answer = await similar.items(query, time.monotonic() + 5.0)
    return [item.item_id for item in answer.items]


async def test_the_nearest_come_first_without_itself_and_what_is_withdrawn(world: World, similar: Similar) -> None:
    await world.publish()
    able = [item for item in ITEMS if item != "i9"]
    answer = await similar.items(SimilarQuery("i4", 30), time.monotonic() + 5.0)
    assert [item.item_id for item in answer.items] == expected("i4", able)
    assert answer.model_version == "v1"
    first = answer.items[0]
    cosine = F.cosine_similarity(vector_of("i4"), vector_of(first.item_id), dim=0)
    torch.testing.assert_close(torch.tensor(first.similarity), cosine)


async def test_excludes_and_categories_hold_and_many_at_once_are_each_answered(world: World, similar: Similar) -> None:
    await world.publish()
    queries = [
        SimilarQuery("i4", 5), SimilarQuery("i9", 3), SimilarQuery("i4", 4, excludes=("i1", "nowhere")),
        SimilarQuery("i4", 30, categories=("c1",)), SimilarQuery("i4", 2, categories=("none",)),
    ]  # fmt: skip
    found = await asyncio.gather(*(ids(similar, query) for query in queries))
    able = [item for item in ITEMS if item != "i9"]
    assert found == [
        expected("i4", able)[:5], expected("i9", able)[:3],
        expected("i4", [item for item in able if item != "i1"])[:4],
        expected("i4", [item for n, item in enumerate(ITEMS) if n % 3 == 1]), [],
    ]  # fmt: skip


async def test_an_unknown_item_is_not_found_beside_others_that_are(world: World, similar: Similar) -> None:
    await world.publish()
    known, unknown = await asyncio.gather(
        ids(similar, SimilarQuery("i4", 1)), ids(similar, SimilarQuery("gone", 1)), return_exceptions=True
    )
    assert known == expected("i4", [item for item in ITEMS if item != "i9"])[:1]
    assert isinstance(unknown, NotFound)


async def test_without_a_model_it_says_what_to_do(similar: Similar) -> None:
    with pytest.raises(FailedPrecondition, match="no model has been published yet"):
        await ids(similar, SimilarQuery("i4", 1))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"item_id": ""}, "item_id is empty"),
        ({"item_id": "i", "k": 0}, "ask for 1 to 1000"),
        ({"item_id": "i", "exclude_items": [""]}, "exclude_items is empty"),
        ({"item_id": "i", "categories": ["c"] * 33}, "at most 32"),
    ],
)
def test_a_bad_request_says_what_to_change(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        requests.read_similar(RankingServiceSimilarItemsRequest(**fields), 1000)  # type: ignore[arg-type]


async def test_bounds_of_the_price_hold_with_and_without_categories(world: World, similar: Similar) -> None:
    await world.publish()
    await world.stock([item_of(i, 2, categories=[f"c{n % 3}"], price=n or None) for n, i in enumerate(ITEMS)])
    queries = [
        SimilarQuery("i4", 30, prices=(3.0, 9.0)), SimilarQuery("i4", 30, categories=("c1",), prices=(3.0, 9.0)),
        SimilarQuery("i4", 30), SimilarQuery("i4", 30, prices=(0.0, 0.5)),
    ]  # fmt: skip
    found = await asyncio.gather(*(ids(similar, query) for query in queries))
    assert found == [
        expected("i4", ITEMS[3:10]), expected("i4", [ITEMS[7]]), expected("i4", ITEMS), [],
    ]  # fmt: skip
