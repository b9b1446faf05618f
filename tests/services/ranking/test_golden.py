"""A fixed bundle and fixed states give the answers that are kept: what changes them is meant to."""

import json
import time
from typing import Any

import pytest

from shared.models import contract
from tests.services.ranking.conftest import World
from tests.services.ranking.golden import ANSWERS, MODEL, QUERIES, VERSION, answer, world_states

MEASURED = ("score", "moved", "spoken_moved")
REWRITE = "meant? python -m tests.services.ranking.golden writes them anew"


async def answered(world: World) -> list[dict[str, Any]]:
    users, items = world_states()
    await world.stock(items)
    await world.publish(contract.load(MODEL), VERSION)
    world.graph.put(*users)
    return [answer(await world.pipeline.rank(query, time.monotonic() + 60)) for query in QUERIES]


async def test_the_answers_are_those_that_are_kept(world: World) -> None:
    found, kept = await answered(world), json.loads(ANSWERS.read_text())
    assert [_scores(one) for one in found] == [pytest.approx(_scores(one), abs=1e-4) for one in kept], REWRITE
    assert [_without_scores(one) for one in found] == [_without_scores(one) for one in kept], REWRITE


def _scores(response: dict[str, Any]) -> list[float]:
    """And what moved them."""
    told = ({**item, **item.get("explanation", {})} for item in response["items"])
    return [one.get(name, 0.0) for one in told for name in MEASURED]


def _without_scores(response: dict[str, Any]) -> dict[str, Any]:
    """A score's last bits are the processor's."""
    return response | {"items": [_without(item) for item in response["items"]]}


def _without(told: dict[str, Any]) -> dict[str, Any]:
    left = {name: value for name, value in told.items() if name not in MEASURED}
    return left | {"explanation": _without(told["explanation"])} if "explanation" in told else left
