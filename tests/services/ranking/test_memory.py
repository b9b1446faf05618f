"""services/ranking/memory.py: a bundle that memory would not hold is refused before it is loaded."""

import logging
from pathlib import Path

import pytest

from services.ranking import memory
from services.ranking.experiments import Variant
from services.ranking.generation import Generation, Release
from services.ranking.memory import Memory, TooLarge
from services.ranking.stages.assign import NOT_IN_SERVICE
from shared import bundle
from tests.services.ranking.conftest import World
from tests.services.ranking.doubles import DIM, DotModel, item_of, user_of
from tests.services.ranking.test_swapper import Publisher, make
from tests.services.ranking.test_variants import experiment_of, live, sample, split


def generation_of(rows: int) -> Generation:
    generation = Generation(Release("v", DotModel()))
    generation.put([item_of(f"i{n}") for n in range(rows)])
    return generation


def test_the_first_rows_say_what_a_row_takes() -> None:
    # float32 vectors, bias and users; codes of a byte a number and 12.5 bytes beside them.
    for rows in (3, 64, 100):
        assert generation_of(rows).row_bytes == DIM * 4 + 4 + 4 + DIM + 12.5
    assert Generation().row_bytes == 0


def test_the_estimate_is_not_below_what_a_whole_catalogue_takes() -> None:
    generation = generation_of(64)
    estimate = 5_000 * generation.row_bytes
    generation.put([item_of(f"more {n}") for n in range(5_000 - 64)])
    assert estimate <= generation.table_bytes <= 1.3 * estimate, "with room for a quarter more"


@pytest.mark.parametrize(("free", "fits"), [(10_000_000, True), (1_000_000, False), (-5, False)])
def test_rows_are_afforded_where_as_much_is_free(free: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda _limit: free)
    generation = generation_of(64)  # 700 bytes of facts a row and 100 of the tables, those with room and twice
    if fits:
        Memory(0, "cpu").afford_rows(generation, 10_000)
    else:
        with pytest.raises(TooLarge, match=r"its 10000 items may take 9\.3 MB of memory and \d\.\d MB are free"):
            Memory(0, "cpu").afford_rows(generation, 10_000)


def test_the_gpus_memory_is_asked_for_what_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda _limit: 8_000_000)
    monkeypatch.setattr(memory, "_free_of_gpu", lambda: 1_000_000)
    generation = generation_of(64)
    Memory(0, "cuda").afford_rows(generation, 4_000)
    with pytest.raises(TooLarge, match=r"2\.3 MB of the GPU's memory and 1\.0 MB are free"):
        Memory(0, "cuda").afford_rows(generation, 10_000)


def test_a_model_is_afforded_by_the_size_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"x" * 1000)
    for free, fits in ((2000, True), (1999, False)):
        monkeypatch.setattr(memory, "free_memory", lambda _limit, free=free: free)
        if fits:
            Memory(0, "cpu").afford_model(tmp_path)
        else:
            with pytest.raises(TooLarge, match="its model"):
                Memory(0, "cpu").afford_model(tmp_path)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


async def test_a_current_bundle_that_is_too_large_is_refused_in_one_line_and_the_old_one_stays(
    world: World,
    publisher: Publisher,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await world.stock([item_of(f"i{n}", users=n) for n in range(9)])
    first = publisher.publish()
    assert await make(world, publisher, tmp_path).look() is True
    failures, too_large = sample("bundle_failures_total"), sample("bundles_too_large_total")
    publisher.publish()
    small = make(world, publisher, tmp_path, memory=Memory(1, "cpu"))
    with caplog.at_level(logging.INFO):
        assert await small.look() is False
        assert await small.look() is False
    told = [line for line in (capsys.readouterr().out + caplog.text).splitlines() if "refused" in line]
    assert len(told) == 1
    assert "FINESTREAM_RANKING_MEMORY_BYTES" in told[0]
    assert (sample("bundle_failures_total"), sample("bundles_too_large_total")) == (failures + 1, too_large + 1)
    assert (await world.rank("u")).model_version == first


async def test_a_variants_bundle_that_is_too_large_sends_its_users_to_control(
    world: World, publisher: Publisher, tmp_path: Path
) -> None:
    await world.stock([item_of(f"i{n}", users=n) for n in range(9)])
    first, second = publisher.publish(), publisher.publish()
    bundle.rollback(publisher.url, first)
    assert await make(world, publisher, tmp_path).look() is True
    world.experiment = experiment_of(Variant("other", 0.5, second))
    user = split(world.experiment)["other"][0]
    world.graph.put(user_of(user, ["i3"]))
    too_large = sample("bundles_too_large_total")
    await make(world, publisher, tmp_path, memory=Memory(1, "cpu")).look_beside()
    answer = await world.rank(user)
    assert (answer.variant, answer.model_version, answer.rung_reason) == ("", first, NOT_IN_SERVICE)
    assert sample("bundles_too_large_total") == too_large + 1
    assert sample("variant_ready", variant="other") == 0
    await make(world, publisher, tmp_path).look_beside()
    assert (await world.rank(user)).model_version == second


async def test_a_table_that_would_not_fit_is_refused_after_its_first_rows(world: World) -> None:
    users = await live(world)
    asked = []

    def afford(generation: Generation, rows: int) -> None:
        asked.append((len(generation.facts), rows))
        raise TooLarge("its 30 items may take more")

    world.catalogue._afford = afford
    for current in (True, False):
        with pytest.raises(TooLarge):
            await world.catalogue.build(Release("v3", DotModel()), current=current)
    assert asked == [(3, 30)] * 2, "no more than what is encoded at once"
    assert world.catalogue.of("v3") is None
    assert (await world.rank(users[""][0])).model_version == "v1"
    assert (await world.rank(users["other"][0])).model_version == "v2"
