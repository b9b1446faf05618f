"""ranking as its own process: bundles are swapped while it is asked, and nobody who asks is the worse for it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared import bundle
from shared.kafka import Producer
from shared.pb.finestream.v1 import ranking_pb2
from tests.parts import until
from tests.services.ranking.doubles import NOW, GraphDouble
from tests.services.ranking.golden import MODEL, make_model, world_states
from tests.services.ranking.test_ranking_process import Client, announce, running

pytestmark = pytest.mark.e2e
META = bundle.Meta(kind="finestream", space="", data_from=NOW, data_timestamp=NOW)
SWAPS, ASKING = 6, 8  # swaps, and who ask one after the other all the time
Scores = dict[str, float]


def scores_of(answer: ranking_pb2.RankResponse) -> Scores:
    return {item.item_id: item.score for item in answer.items}


async def ask(client: Client, user_ids: Sequence[str], done: asyncio.Event) -> list[ranking_pb2.RankResponse]:
    """One answer after the other, of the users in turn. Raises where a call fails."""
    answers: list[ranking_pb2.RankResponse] = []
    while not done.is_set():
        answers.append(await client.rank(user_ids[len(answers) % len(user_ids)]))
    return answers


async def test_bundles_are_swapped_under_load_without_a_failed_call_and_every_answer_is_of_one_of_them(
    graph: GraphDouble, producer: Producer, tmp_path: Path
) -> None:
    url, other = str(tmp_path / "bundles"), tmp_path / "other"
    make_model(other, seed=8)
    models = [MODEL, other]
    users, items = world_states()
    user_ids = [user.user_id for user in users]
    graph.put(*users)
    await announce(producer, graph, *items)
    versions = [bundle.publish(url, MODEL, META)]
    async with running(graph, tmp_path, url) as client:

        async def serves(version: str) -> bool:
            return (await client.rank(user_ids[0])).model_version == version

        async def swap() -> None:
            versions.append(bundle.publish(url, models[len(versions) % 2], META))
            await until(lambda: serves(versions[-1]), 30, "the bundle is in service")

        async def alone() -> list[Scores]:
            return [scores_of(await client.rank(user_id)) for user_id in user_ids]

        expected = [await alone()]
        await swap()
        expected.append(await alone())
        assert all(first != pytest.approx(second, abs=1e-2) for first, second in zip(*expected, strict=True))
        done = asyncio.Event()
        asking = [asyncio.create_task(ask(client, user_ids, done)) for _ in range(ASKING)]
        for _ in range(SWAPS):
            await swap()
        done.set()
        of_each = await asyncio.gather(*asking)

    seen = set()
    for answers in of_each:
        for number, answer in enumerate(answers):
            which = versions.index(answer.model_version) % 2
            assert scores_of(answer) == pytest.approx(expected[which][number % len(user_ids)], abs=1e-4)
            seen.add(answer.model_version)
    assert len(seen) > SWAPS / 2, "they did not ask while bundles were swapped"
