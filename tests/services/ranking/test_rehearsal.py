"""services/ranking/rehearsal.py: no request waits for a loop to be compiled."""

from collections.abc import Callable
from pathlib import Path

import numba
import pytest
import torch

from services.ranking import codes
from services.ranking.generation import Generation, Release
from services.ranking.job import Job
from services.ranking.rehearsal import compile_loops, rehearse
from services.ranking.requests import Query
from services.ranking.stages import score, select, shortlist, sums
from services.ranking.stages.allowed import Allowed
from services.ranking.stages.scan import scan
from shared.models import finestream_loops
from tests.services.ranking.doubles import NOW, DotModel, item_of
from tests.shared.models.test_finestream_serving import made
from tests.shared.models.worlds import CONFIG, states

Types = set[tuple[str, ...]]


def test_rehearsal_meets_every_compiled_loop_with_the_types_that_requests_bring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    met: Types = set()
    for module, name in ((shortlist, "_find"), (sums, "of_pairs"), (sums, "of_all")):
        monkeypatch.setattr(module, name, noting(met, name, getattr(module, name)))
    with torch.inference_mode():
        generation = Generation(Release("v1", DotModel()))
        generation.put([item_of(f"i{row}") for row in range(100)])
        rehearse(generation)
        rehearsed = met.copy()
        met.clear()
        generation.put([item_of(f"i{row}") for row in range(50, 3000)])  # into another place, with room
        generation.facts.withdraw(["i1"])
        rank_by_every_way(generation)
    assert {name for name, *_ in met} == {"_find", "of_pairs", "of_all"}
    assert met <= rehearsed


def test_what_is_compiled_at_the_start_is_all_that_a_finestream_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    met: Types = set()
    loops = (
        (shortlist, "_find"), (sums, "of_pairs"), (sums, "of_all"), (codes, "_code_users"),
        (finestream_loops, "encode"), (finestream_loops, "moved"),
    )  # fmt: skip
    for module, name in loops:
        monkeypatch.setattr(module, name, noting(met, name, getattr(module, name)))
    with torch.inference_mode():
        compile_loops()
        compiled = met.copy()
        met.clear()
        users, items = states()
        model = made(CONFIG, 1, tmp_path)
        generation = Generation(Release("v1", model))
        generation.put(items)
        rank_by_every_way(generation)
        assert generation.table is not None
        model.encode_users(users, generation.table, NOW)  # with histories and reviews
        model.moved(users, generation.table, [[1, 2]] * len(users))
    assert {name for name, *_ in met} == {name for _, name in loops}
    assert met <= compiled


def noting(met: Types, name: str, loop: Callable[..., object]) -> Callable[..., object]:
    def noted(*given: object) -> object:
        met.add((name, *(str(numba.typeof(one)) for one in given)))
        return loop(*given)

    return noted


def rank_by_every_way(generation: Generation) -> None:
    table, facts, model = generation.table, generation.facts, generation.release.model
    assert table is not None
    assert model is not None
    half = torch.arange(len(facts)) % 2 == 0
    jobs = [Job(Query(str(at), 5), 0.0, wanted=5) for at in range(4)]
    jobs[1].banned, jobs[2].within, jobs[3].rows = {7, 8}, half, {1, 2, 3}
    users = score.encode(jobs, model, table, NOW)

    def scores_of(which: list[int]) -> score.Scores:
        return score.by_model(users[which], table, generation.codes)

    select.fill(jobs, scores_of, facts.available, 64)
    select.fill(jobs[:1], scores_of, facts.available, 64)
    scores = scores_of([0, 1])
    assert isinstance(scores, score.OnCpu)
    scan(scores, Allowed(facts.available, [set(), {1}], [None, half]), 5, 64)
