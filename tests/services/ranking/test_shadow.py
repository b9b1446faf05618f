"""services/ranking/shadow.py: what is never shown is compared, and is in nobody's way."""

import asyncio
import threading
from typing import Any

import pytest

from services.ranking.experiments import Variant
from services.ranking.requests import Arrangement
from services.ranking.shadow import WAITING, overlap
from shared.pb.finestream.v1 import ranking_pb2
from tests.parts import until
from tests.services.ranking.conftest import World
from tests.services.ranking.doubles import DotModel
from tests.services.ranking.test_variants import Opposite, experiment_of, live, sample

RankedItem, RankResponse = ranking_pb2.RankedItem, ranking_pb2.RankResponse


async def shadowed(world: World, model: DotModel | None = None, share: float = 1.0) -> str:
    """The bundle v2 in the shadow of v1; a user."""
    users = await live(world, variant=model or Opposite())
    world.experiment = experiment_of(Variant("other", share, "v2", shadow=True))
    return users["other"][0]


def compared() -> tuple[float, float]:
    """How often, and the sum of the overlaps."""
    return tuple(sample(f"shadow_overlap_ratio_{what}", variant="other") for what in ("count", "sum"))  # type: ignore[return-value]


async def _more(before: float, by: int) -> None:
    await until(lambda: compared()[0] == before + by, 5, "the shadow has ranked")


async def _idle(world: World) -> None:
    await until(world.pipeline._shadow._waiting.empty, 20, "those that had room were ranked")
    await world.pipeline._together.rest()
    await asyncio.sleep(0)  # the last one goes to the inference thread
    await world.inference.run(lambda: None)


async def test_a_shadow_ranks_what_was_answered_and_is_never_shown(world: World) -> None:
    user = await shadowed(world)
    (times, overlaps), seconds = compared(), sample("shadow_seconds_count", variant="other")
    for k, shared in ((10, 0.0), (29, 1.0), (20, 11 / 20)):  # of 29 items, the other way round
        answer = await world.rank(user, k)
        assert (answer.variant, answer.model_version) == ("", "v1")
        await _more(times, 1)
        times, overlaps = times + 1, overlaps + shared
        assert compared()[1] == pytest.approx(overlaps)
    assert sample("shadow_seconds_count", variant="other") == seconds + 3


async def test_popular_answers_are_not_compared(world: World) -> None:
    user = await shadowed(world)
    before = compared()[0]
    await asyncio.gather(*(world.rank("stranger", 1) for _ in range(5)))
    await world.rank(user, 1)
    await _idle(world)
    assert compared()[0] == before + 1


async def test_its_share_is_of_the_answers(world: World) -> None:
    user = await shadowed(world, share=0.25)
    before = compared()[0], sample("shadow_skipped_total", variant="other")
    for _ in range(200):
        assert (await world.rank(user, 1, explain=False)).variant == ""
    await _idle(world)
    noted = compared()[0] + sample("shadow_skipped_total", variant="other") - sum(before)
    assert 22 <= noted <= 78  # 50, give or take 4.6 sigma


async def test_a_shadow_waits_until_no_request_does_and_what_is_too_much_is_dropped(world: World) -> None:
    user = await shadowed(world)
    before, skipped = compared()[0], sample("shadow_skipped_total", variant="other")
    held = threading.Event()
    block = asyncio.create_task(world.inference.run(held.wait))
    asked = [asyncio.create_task(world.rank(user, 1)) for _ in range(WAITING + 40)]
    await until(lambda: bool(world.graph.calls), 5, "they are worked on")
    held.set()
    await asyncio.gather(block, *asked)
    assert sample("shadow_skipped_total", variant="other") >= skipped + 38, "one may have been taken meanwhile"
    await _idle(world)
    assert sample("shadow_skipped_total", variant="other") + compared()[0] == before + skipped + WAITING + 40


async def test_while_requests_wait_no_shadow_ranks(world: World) -> None:
    user = await shadowed(world)
    before = compared()[0]
    held = threading.Event()
    block = asyncio.create_task(world.inference.run(held.wait))
    waiting = asyncio.create_task(world.rank(user, 1))
    await until(lambda: not world.pipeline._together._rest.is_set(), 5, "it waits for the inference thread")
    rest = asyncio.create_task(world.pipeline._together.rest())
    for _ in range(50):
        await asyncio.sleep(0)
    assert not rest.done()
    assert compared()[0] == before
    held.set()
    await asyncio.gather(block, waiting)
    await asyncio.wait_for(rest, 5)


async def test_a_shadow_that_fails_is_counted_and_fails_nobody(world: World) -> None:
    class Broken(DotModel):
        served = False

        def encode_users(self, *args: Any) -> Any:
            if self.served:
                raise RuntimeError("broken")
            return super().encode_users(*args)

    model = Broken()
    user = await shadowed(world, model)
    model.served = True
    before = sample("shadow_failures_total", variant="other")
    assert [len((await world.rank(user, 5)).items) for _ in range(2)] == [5, 5]
    await until(lambda: sample("shadow_failures_total", variant="other") == before + 2, 5, "both were counted")


async def test_chance_is_left_out_of_the_comparison(world: World) -> None:
    user = await shadowed(world, DotModel())
    times, overlaps = compared()
    for _ in range(8):
        await world.rank(user, 10, arrangement=Arrangement(exploration=0.3))
    await _more(times, 8)
    # The shadow is the same model, so it shows what was shown for its score, and what the explored moved out.
    assert compared()[1] == pytest.approx(overlaps + 8)


async def test_shadow_rankings_are_no_stages_of_requests(world: World) -> None:
    user = await shadowed(world)
    times, _ = compared()
    stages = sample("stage_seconds_count", stage="ladder")
    await world.rank(user, 5)
    await _more(times, 1)
    assert sample("stage_seconds_count", stage="ladder") == stages + 1


def test_overlap_is_of_what_was_shown_for_its_score() -> None:
    shown = RankResponse(items=[RankedItem(item_id=name) for name in "abcd"])
    assert overlap(shown, RankResponse(items=[RankedItem(item_id=name) for name in "dxa"])) == 0.5
    shown.items[0].placement = ranking_pb2.PLACEMENT_EXPLORED
    assert overlap(shown, RankResponse(items=[RankedItem(item_id=name) for name in "dxa"])) == pytest.approx(1 / 3)
    assert overlap(RankResponse(), shown) is None
