"""services/ranking/stages/side_effect.py: what was shown is written, and never stands in a caller's way."""

import asyncio
from typing import Any

from prometheus_client import REGISTRY

from services.ranking.job import EXPLORED, PINNED, POPULAR, Job, Pick
from services.ranking.requests import Query
from services.ranking.stages.side_effect import Impressions
from shared import events
from shared.errors import Unavailable
from shared.events import Impression
from tests.parts import until


class SenderDouble:
    """A test double of the producer."""

    def __init__(self) -> None:
        self.sent: list[Impression] = []
        self.down = False

    async def send_all(self, batch: list[tuple[str, Any]]) -> list[Any]:
        await asyncio.sleep(0)
        if self.down:
            raise Unavailable("no broker")
        self.sent += [event for topic, event in batch if topic == "impressions"]
        return []


def answered(request_id: str) -> Job:
    return Job(
        Query("u", 2), 0.0, request_id=request_id, rung=POPULAR, item_ids=["b", "a"], picks=[Pick(1, 2.0), Pick(0, 1.0)]
    )


def dropped() -> float:
    return REGISTRY.get_sample_value("finestream_ranking_impressions_dropped_total") or 0.0


async def test_an_impression_tells_who_was_shown_what_in_which_order_and_why() -> None:
    sender = SenderDouble()
    impressions = Impressions(sender, 10)
    impressions.start()
    shown = answered("r1")
    shown.variant = "larger"
    impressions.offer(shown, "v1")
    await until(lambda: bool(sender.sent), 5, "it is written")
    (sent,) = sender.sent
    assert (sent.user_id, sent.request_id, sent.item_ids) == ("u", "r1", ["b", "a"])
    assert (sent.rung, sent.model_version, sent.variant) == ("popular", "v1", "larger")
    await impressions.stop()


async def test_an_impression_of_an_exploring_policy_has_its_propensities_and_what_was_explored() -> None:
    sender = SenderDouble()
    impressions = Impressions(sender, 10)
    impressions.start()
    exploring = answered("r1")
    exploring.policy = "epsilon 0.1"
    exploring.picks = [Pick(1, 2.0, 0.9, PINNED), Pick(0, 1.0, 0.01, EXPLORED)]
    impressions.offer(exploring, "v1")
    impressions.offer(answered("r2"), "v1")
    await until(lambda: len(sender.sent) == 2, 5, "they are written")
    explored, plain = sender.sent
    assert (explored.policy, explored.propensities, explored.explored) == ("epsilon 0.1", [0.9, 0.01], [1])
    assert explored.pinned == [0]
    assert (plain.policy, plain.propensities, plain.explored) == ("", [], [])
    assert events.decode("impressions", events.encode(explored)) == explored
    await impressions.stop()


async def test_a_full_buffer_drops_and_counts() -> None:
    before, sender = dropped(), SenderDouble()
    impressions = Impressions(sender, 2)
    for n in range(5):
        impressions.offer(answered(f"r{n}"), "v1")
    assert dropped() == before + 3
    impressions.start()
    await impressions.stop()
    assert [sent.request_id for sent in sender.sent] == ["r0", "r1"]


async def test_a_broker_that_is_down_drops_counts_and_does_not_end_it() -> None:
    before, sender = dropped(), SenderDouble()
    sender.down = True
    impressions = Impressions(sender, 10)
    impressions.start()
    impressions.offer(answered("r1"), "v1")
    await until(lambda: dropped() == before + 1, 5, "it is counted")
    sender.down = False
    impressions.offer(answered("r2"), "v1")
    await until(lambda: bool(sender.sent), 5, "the next is written")
    await impressions.stop()
