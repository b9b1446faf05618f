"""Several bundles live: each user's requests by one of them, all of them fresh, and none of them in another's way."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from torch import Tensor

from services.ranking import pages
from services.ranking.experiments import NO_EXPERIMENT, Experiment, Plan, Variant
from services.ranking.generation import Release
from services.ranking.stages.assign import NOT_IN_SERVICE
from services.ranking.swapper import Swapper
from shared import bundle
from shared.graph.state import ItemNode, UserState
from shared.models.contract import ItemTable
from shared.pb.finestream.v1 import ranking_pb2
from tests.parts import until
from tests.services.ranking.conftest import World, state_of
from tests.services.ranking.doubles import DotModel, item_of, user_of, vector_of
from tests.services.ranking.test_swapper import Publisher, make

ITEMS = [f"i{n}" for n in range(30)]


class Opposite(DotModel):
    """A test double of a model that likes least what DotModel likes best."""

    def encode_users(self, users: Sequence[UserState], table: ItemTable, now: float) -> Tensor:
        return -super().encode_users(users, table, now)


def experiment_of(*variants: Variant) -> Experiment:
    return Experiment(Plan("test", "salt", variants))


def split(experiment: Experiment, each: int = 6) -> dict[str, list[str]]:
    """So many users of each variant, the control's under the empty name."""
    users: dict[str, list[str]] = {name: [] for name in ["", *(variant.name for variant in experiment.shown)]}
    for user in islice((f"u{n}" for n in count()), 10_000):
        variant = experiment.variant_of(user)
        users[variant.name if variant else ""].append(user)
    return {name: some[:each] for name, some in users.items()}


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"finestream_ranking_{name}", labels) or 0.0


async def live(world: World, share: float = 0.5, variant: DotModel | None = None) -> dict[str, list[str]]:
    """The current bundle v1, and v2 beside it for the users of `other`; some users of both, who met i3."""
    world.experiment = experiment_of(Variant("other", share, "v2"))
    await world.stock([item_of(item, users=n, categories=["c"]) for n, item in enumerate(ITEMS)])
    await world.publish(version="v1")
    await world.catalogue.want(frozenset({"v2"}))
    await world.catalogue.build(Release("v2", variant or Opposite()), current=False)
    users = split(world.experiment)
    world.graph.put(*(user_of(user, ["i3"]) for some in users.values() for user in some))
    return users


async def answers(world: World, users: list[str], **asked: Any) -> list[ranking_pb2.RankResponse]:
    return await asyncio.gather(*(world.rank(user, **asked) for user in users))


async def test_each_user_is_ranked_by_the_bundle_of_their_variant_and_the_answer_says_so(world: World) -> None:
    users = await live(world)
    before = {name: sample("answers_total", rung="full", variant=name) for name in ("control", "other")}
    seconds = sample("variant_seconds_count", variant="other")
    for _ in range(2):
        for answer in await answers(world, users[""], k=29):
            assert (answer.variant, answer.model_version, answer.rung_reason) == ("", "v1", "")
            control = [item.item_id for item in answer.items]
        for answer in await answers(world, users["other"], k=29):
            assert (answer.variant, answer.model_version, answer.rung_reason) == ("other", "v2", "")
            assert [item.item_id for item in answer.items] == control[::-1]
    for name in ("control", "other"):
        assert sample("answers_total", rung="full", variant=name) == before[name] + 12
    assert sample("variant_seconds_count", variant="other") > seconds


async def test_one_call_of_graph_updater_serves_the_variants_of_a_micro_batch(world: World) -> None:
    users = await live(world)
    world.graph.calls.clear()
    found = await answers(world, [*users[""], *users["other"]])
    assert world.graph.calls == [12]
    assert {answer.model_version for answer in found} == {"v1", "v2"}


async def test_states_are_asked_for_in_the_space_that_some_variant_reads(world: World) -> None:
    users = await live(world, variant=Opposite("a"))
    world.graph.spaces.clear()
    found = await answers(world, [*users[""], *users["other"]])
    assert world.graph.spaces == {"a"}
    assert [answer.variant for answer in found] == [""] * 6 + ["other"] * 6


async def test_variants_with_one_bundle_share_its_generation(world: World) -> None:
    await live(world)
    world.experiment = experiment_of(Variant("same", 0.3, "v1"), Variant("b", 0.3, "v2"), Variant("c", 0.3, "v2"))
    users = split(world.experiment)
    for name, version in {"": "v1", "same": "v1", "b": "v2", "c": "v2"}.items():
        for answer in await answers(world, users[name]):
            assert (answer.variant, answer.model_version) == (name, version)


async def test_a_change_of_an_item_is_in_every_bundles_next_ranking(world: World) -> None:
    users = await live(world)
    calls = len(world.graph.item_calls)
    await world.stock([item_of("new", users=99), item_of("i4", 2, available=False)])
    assert len(world.graph.item_calls) == calls + 1, "one fetch for all bundles"
    for version in ("v1", "v2"):
        generation = world.catalogue.of(version)
        assert generation is not None
        assert generation.table is not None
        assert generation.table.item_ids == generation.facts.item_ids
    for user in (users[""][0], users["other"][0]):
        assert set(await world.ids(user, 50)) == {*ITEMS, "new"} - {"i3", "i4"}


async def test_a_withdrawn_item_is_in_no_bundles_ranking_at_once(world: World) -> None:
    users = await live(world)
    await world.catalogue.tell([state_of(item_of("i4", 2, available=False))])
    for user in (users[""][0], users["other"][0]):
        assert "i4" not in await world.ids(user, 50)


@pytest.mark.parametrize("current", [True, False])
async def test_what_changes_while_a_bundle_is_encoded_reaches_the_others_too(world: World, current: bool) -> None:
    users = await live(world)
    await world.catalogue.want(frozenset({"v2", "v3"}))
    world.graph.gate = asyncio.Event()
    calls = len(world.graph.item_calls)
    building = asyncio.create_task(world.catalogue.build(Release("v3", DotModel()), current=current))
    await until(lambda: len(world.graph.item_calls) > calls, 5, "the build has begun")
    fresh = [item_of("new"), item_of("i5", 2, users=77)]
    world.graph.put(*fresh)
    await world.catalogue.tell([state_of(node) for node in fresh])
    world.graph.gate.set()
    await building
    assert world.catalogue.pending == 2, "not yet in every table, so not dropped"
    while world.catalogue.pending:
        await world.catalogue.refresh()
    assert "new" in await world.ids(users["other"][0], 50)
    for version in ("v2", "v3"):
        generation = world.catalogue.of(version)
        assert generation is not None
        assert generation.facts.users[generation.facts.row_of["i5"]] == 77


async def test_an_item_that_one_model_cannot_take_is_in_the_others_rankings(world: World) -> None:
    class Takes(DotModel):
        def encode_items(self, items: Sequence[ItemNode]) -> ItemTable:
            items = [item if item.item_id != "poison" else item_of("cure") for item in items]
            table = super().encode_items(items)
            table.item_ids[:] = ["poison" if item == "cure" else item for item in table.item_ids]
            return table

    users = await live(world, variant=Takes())
    await world.stock([item_of("poison")])
    assert "poison" not in await world.ids(users[""][0], 50)
    assert "poison" in await world.ids(users["other"][0], 50)


async def test_after_an_event_every_bundle_reflects_it(world: World) -> None:
    users = await live(world)
    described = item_of("late", offset=3)
    # As if a new current bundle had seen it before the others.
    await world.inference.run(world.catalogue.current.put, [described])
    reflected = asyncio.create_task(world.catalogue.reflected("late", 0, 3))
    await asyncio.sleep(0)
    assert not reflected.done()
    await world.stock([described])
    await asyncio.wait_for(reflected, 5)
    assert "late" in await world.ids(users["other"][0], 50)


async def test_pages_of_a_variants_user_repeat_nothing_also_when_the_variant_ends(world: World) -> None:
    users = await live(world)
    user = users["other"][0]
    shown: tuple[str, ...] = ()
    for variant in ("other", "other", ""):
        if not variant:
            world.experiment = NO_EXPERIMENT
        answer = await world.rank(user, 5, paged=True, shown=shown)
        assert answer.variant == variant
        shown = pages.shown(user, answer.next_page_token)
    assert len(set(shown)) == len(shown) == 15


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shares=st.lists(st.sampled_from([0.0, 0.1, 0.3]), min_size=3, max_size=3),
    asked=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 40)), min_size=1, max_size=40),
    missing=st.booleans(),
)
async def test_no_answer_mixes_two_bundles(
    world: World, shares: list[float], asked: list[tuple[int, int]], missing: bool
) -> None:
    if not world.catalogue.current.release.version:
        await live(world)
        await world.catalogue.want(frozenset({"v2", "v3"}))
        await world.catalogue.build(Release("v3", Nearest()), current=False)
        world.graph.put(*(user_of(f"u{n}", [ITEMS[n % 30]]) for n in range(201)))
    bundles = ["v1", "v2", "nowhere" if missing else "v3"]
    named = zip("abc", shares, bundles, strict=True)
    world.experiment = experiment_of(*(Variant(name, share, version) for name, share, version in named))
    found = await asyncio.gather(*(world.rank(f"u{n}", k) for n, k in asked))
    for (n, k), answer in zip(asked, found, strict=True):
        variant = world.experiment.variant_of(f"u{n}")
        wanted = variant if variant and variant.bundle != "nowhere" else None
        assert answer.variant == (wanted.name if wanted else "")
        assert answer.model_version == (wanted.bundle if wanted else "v1")
        assert answer.rung_reason == (NOT_IN_SERVICE if variant and not wanted else "")
        assert [item.item_id for item in answer.items] == by_hand(n, answer.model_version)[:k]


class Nearest(DotModel):
    """A test double of a model that scores each item by its place."""

    def encode_items(self, items: Sequence[ItemNode]) -> ItemTable:
        table = super().encode_items(items)
        table.bias[:] = table.bias.new_tensor([float(item.item_id[1:]) * 1e3 for item in items])
        return table


def by_hand(user: int, version: str) -> list[str]:
    met = ITEMS[user % 30]
    score = {item: float(vector_of(met) @ vector_of(item)) for item in ITEMS}
    order = {"v1": lambda item: score[item], "v2": lambda item: -score[item], "v3": lambda item: ITEMS.index(item)}
    return [item for item in sorted(ITEMS, key=order[version], reverse=True) if item != met]


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


@pytest.fixture
async def swapper(world: World, publisher: Publisher, tmp_path: Path) -> Swapper:
    await world.stock([item_of(item, users=n) for n, item in enumerate(ITEMS)])
    return make(world, publisher, tmp_path)


async def test_a_variants_bundle_comes_beside_the_current_one_and_goes_with_the_experiment(
    swapper: Swapper, world: World, publisher: Publisher
) -> None:
    first, second = publisher.publish(), publisher.publish()
    bundle.rollback(publisher.url, first)
    world.experiment = experiment_of(Variant("other", 0.5, second), Variant("same", 0.1, first))
    users = split(world.experiment)
    await swapper.look()
    early = await world.rank(users["other"][0])
    assert (early.variant, early.model_version) == ("", first)
    await swapper.look_beside()
    assert (await world.rank(users["other"][0])).model_version == second
    assert (await world.rank(users[""][0])).model_version == first
    assert sample("variant_ready", variant="other") == sample("variant_ready", variant="same") == 1
    world.experiment = NO_EXPERIMENT
    assert (await world.rank(users["other"][0])).model_version == first
    await swapper.look_beside()
    assert world.catalogue.of(second) is None
    assert world.catalogue.of(first) is world.catalogue.current
    assert REGISTRY.get_sample_value("finestream_ranking_variant_ready", {"variant": "other"}) is None


async def test_a_wanted_bundle_stays_fetched_while_newer_ones_come(
    swapper: Swapper, world: World, publisher: Publisher, tmp_path: Path
) -> None:
    first = publisher.publish()
    world.experiment = experiment_of(Variant("old", 0.5, first))
    await swapper.look_beside()
    for _ in range(4):
        publisher.publish()
        await swapper.look()
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert (tmp_path / "cache" / first).is_dir()


async def test_a_variants_bundle_that_becomes_current_is_not_built_again_and_an_old_one_that_is_wanted_stays(
    swapper: Swapper, world: World, publisher: Publisher
) -> None:
    first, second = publisher.publish(), publisher.publish()
    bundle.rollback(publisher.url, first)
    world.experiment = experiment_of(Variant("a", 0.3, first), Variant("b", 0.3, second))
    await swapper.look()
    await swapper.look_beside()
    held, calls = [world.catalogue.of(version) for version in (first, second)], len(world.graph.item_calls)
    bundle.rollback(publisher.url, second)
    assert await swapper.look() is True
    await swapper.look_beside()
    assert len(world.graph.item_calls) == calls
    assert [world.catalogue.of(version) for version in (first, second)] == held
    assert world.catalogue.current is held[1]


def _nowhere(_publisher: Publisher) -> str:
    return "20990101T000000.000000Z"


def _damaged(publisher: Publisher) -> str:
    version = publisher.publish()
    publisher.damage(version, "weights.safetensors")
    return version


def _of_another_space(publisher: Publisher) -> str:
    meta = bundle.Meta(kind="popularity", space="elsewhere", data_from=1.7e9, data_timestamp=1.7e9)
    return bundle.publish(publisher.url, publisher.model(), meta)


@pytest.mark.parametrize(
    ("broken", "words"),
    [(_nowhere, "not there"), (_damaged, "does not hash"), (_of_another_space, "is of space 'elsewhere'")],
)
async def test_a_variant_whose_bundle_cannot_be_served_sends_its_users_to_control_and_says_so(
    swapper: Swapper,
    world: World,
    publisher: Publisher,
    broken: Callable[[Publisher], str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = publisher.publish()
    await swapper.look()
    version = broken(publisher)
    bundle.rollback(publisher.url, first)
    world.experiment = experiment_of(Variant("other", 0.5, version))
    user = split(world.experiment)["other"][0]
    world.graph.put(user_of(user, ["i3"]))
    failures = sample("bundle_failures_total")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await swapper.look_beside()
    told = [line for line in (capsys.readouterr().out + caplog.text).splitlines() if "refused" in line]
    assert len(told) == 1
    assert words in told[0]
    assert sample("bundle_failures_total") == failures + 1
    assert sample("variant_ready", variant="other") == 0
    answer = await world.rank(user)
    assert (answer.variant, answer.model_version, answer.rung) == ("", first, ranking_pb2.RUNG_FULL)
    assert answer.rung_reason == NOT_IN_SERVICE
