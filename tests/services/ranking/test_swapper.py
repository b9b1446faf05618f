"""services/ranking/swapper.py: a good bundle is swapped in, a bad one is refused and the old one stays."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.ranking.memory import Memory
from services.ranking.swapper import Swapper
from shared import bundle
from shared.models.popularity import Popularity
from tests.services.ranking.conftest import World
from tests.services.ranking.doubles import NOW, item_of, user_of

EVERYTHING = Memory(0, "cpu")
META = bundle.Meta(kind="popularity", space="", data_from=NOW, data_timestamp=NOW)


class Publisher:
    """Publishes popularity models to a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.url = str(folder / "bundles")
        self._folder = folder

    def publish(self) -> str:
        return bundle.publish(self.url, self.model(), META)

    def publish_damaged(self) -> str:
        """As publish, but what current.json names never hashed right: it is made elsewhere and damaged first."""
        elsewhere, store = self._folder / "elsewhere", Path(self.url)
        version = bundle.publish(str(elsewhere), self.model(), META)
        shutil.copytree(elsewhere / "versions" / version, store / "versions" / version)
        self.damage(version)
        (elsewhere / "current.json").replace(store / "current.json")
        return version

    def model(self) -> Path:
        folder = self._folder / "model"
        folder.mkdir(exist_ok=True)
        Popularity("").save(folder)
        return folder

    def damage(self, version: str, name: str = "config.json") -> None:
        path = Path(self.url) / "versions" / version / name
        path.write_bytes(path.read_bytes() + b" ")

    def undo_damage(self, version: str, name: str = "config.json") -> None:
        path = Path(self.url) / "versions" / version / name
        path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


@pytest.fixture
async def swapper(world: World, publisher: Publisher, tmp_path: Path) -> Swapper:
    await world.stock([item_of(f"i{n}", users=n) for n in range(9)])
    world.graph.put(user_of("u", ["i1"]))
    return make(world, publisher, tmp_path)


def make(
    world: World,
    publisher: Publisher,
    folder: Path,
    clock: Callable[[], float] = lambda: 0.0,
    memory: Memory = EVERYTHING,
) -> Swapper:
    return Swapper(
        publisher.url, folder / "cache", world.catalogue, world.inference, memory, space="here", retry_seconds=30.0,
        experiment=lambda: world.experiment, clock=clock,
    )  # fmt: skip


def failures() -> float:
    return REGISTRY.get_sample_value("finestream_ranking_bundle_failures_total") or 0.0


async def test_nothing_published_is_no_failure(swapper: Swapper) -> None:
    before = failures()
    assert await swapper.look() is False
    assert failures() == before


async def test_each_new_bundle_is_put_into_service_once(swapper: Swapper, world: World, publisher: Publisher) -> None:
    for _ in range(2):
        version = publisher.publish()
        assert await swapper.look() is True
        assert await swapper.look() is False
        assert (await world.rank("u")).model_version == version


async def test_a_rollback_is_followed(swapper: Swapper, world: World, publisher: Publisher) -> None:
    first = publisher.publish()
    await swapper.look()
    publisher.publish()
    await swapper.look()
    bundle.rollback(publisher.url)
    assert await swapper.look() is True
    assert (await world.rank("u")).model_version == first


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "meta.json", "checksums.json", "READY"])
async def test_a_damaged_bundle_is_refused_counted_and_the_old_one_stays(
    swapper: Swapper, world: World, publisher: Publisher, name: str
) -> None:
    good = publisher.publish()
    await swapper.look()
    before = failures()
    publisher.damage(publisher.publish(), name)
    assert await swapper.look() is False
    assert failures() == before + 1
    assert (await world.rank("u")).model_version == good


async def test_a_refused_bundle_is_tried_again_after_a_while(
    swapper: Swapper, world: World, publisher: Publisher, tmp_path: Path
) -> None:
    now = 0.0
    swapper = make(world, publisher, tmp_path, lambda: now)
    version = publisher.publish()
    publisher.damage(version)
    assert await swapper.look() is False
    publisher.undo_damage(version)
    assert await swapper.look() is False, "not at once"
    now = 31.0
    assert await swapper.look() is True


async def test_a_current_json_that_is_no_json_keeps_the_old_one(
    swapper: Swapper, world: World, publisher: Publisher
) -> None:
    good = publisher.publish()
    await swapper.look()
    before = failures()
    (Path(publisher.url) / "current.json").write_text("{")
    assert await swapper.look() is False
    assert failures() == before + 1
    assert (await world.rank("u")).model_version == good


async def test_a_good_bundle_waits_for_a_silent_graph_updater(
    swapper: Swapper, world: World, publisher: Publisher
) -> None:
    publisher.publish()
    world.graph.silent = True
    assert await swapper.look() is False
    world.graph.silent = False
    assert await swapper.look() is True


async def test_a_model_kind_that_this_code_does_not_know_is_refused(
    swapper: Swapper, world: World, publisher: Publisher, tmp_path: Path
) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "config.json").write_text('{"kind": "foreign", "space": "", "config": {}}')
    bundle.publish(publisher.url, folder, bundle.Meta(kind="foreign", space="", data_from=NOW, data_timestamp=NOW))
    before = failures()
    assert await swapper.look() is False
    assert failures() == before + 1
    assert (await world.rank("u")).model_version == ""


async def test_only_the_newest_fetched_bundles_are_kept(swapper: Swapper, publisher: Publisher, tmp_path: Path) -> None:
    for _ in range(5):
        publisher.publish()
        await swapper.look()
    assert len(list((tmp_path / "cache").iterdir())) == 3
