"""services/ranking/stages/select.py: the tiled, running top-k is a full sort, whatever the tiles, filters and ties."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.ranking.job import Pick
from services.ranking.stages import score, select
from services.ranking.stages.score import Rows
from shared.models.contract import ItemTable

SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, math.inf, -math.inf, math.nan]),  # many ties, and what is no number
    st.floats(width=32, allow_nan=False),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[set[int]], int, int]:
    requests, items = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    values = draw(st.lists(SCORES, min_size=requests * items, max_size=requests * items))
    available = draw(st.lists(st.booleans(), min_size=items, max_size=items))
    banned = [draw(st.sets(st.integers(0, items - 1))) for _ in range(requests)]
    k, tile = draw(st.integers(1, 45)), draw(st.integers(1, 45))
    return torch.tensor(values).view(requests, items), torch.tensor(available), banned, k, tile


def sorted_in_full(scores: Tensor, allowed: set[int], k: int) -> list[Pick]:
    able = [(row, s) for row, s in enumerate(scores.tolist()) if row in allowed and s > -math.inf]
    return [Pick(row, s) for row, s in sorted(able, key=lambda pair: (-pair[1], pair[0]))[:k]]


@settings(deadline=None, max_examples=300)
@given(cases())
def test_the_tiled_top_k_equals_a_full_sort(case: tuple[Tensor, Tensor, list[set[int]], int, int]) -> None:
    scores, available, banned, k, tile = case
    rows = {row for row, able in enumerate(available.tolist()) if able}

    def tiles(some: Rows) -> Tensor:
        return scores[:, some].clone()

    found = select.best(tiles, available, banned, k, tile)
    assert found == [sorted_in_full(s, rows - b, k) for s, b in zip(scores, banned, strict=True)]


@settings(deadline=None, max_examples=300)
@given(cases())
def test_the_top_k_of_given_rows_equals_a_full_sort(case: tuple[Tensor, Tensor, list[set[int]], int, int]) -> None:
    scores, available, (given_rows, *_), k, tile = case
    rows = {row for row, able in enumerate(available.tolist()) if able}
    found = select.best_of(lambda some: scores[:1, some].clone(), available, given_rows, k, tile)
    assert found == sorted_in_full(scores[0], rows & given_rows, k)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 33), st.integers(1, 70), st.integers(1, 200), st.integers(0, 1000))
def test_a_users_scores_are_the_same_bits_whoever_shares_the_batch(batch: int, dim: int, items: int, seed: int) -> None:
    numbers = torch.Generator().manual_seed(seed)
    table = ItemTable([str(i) for i in range(items)], torch.randn(items, dim, generator=numbers), torch.zeros(items))
    users = torch.randn(batch, dim, generator=numbers)
    together = score.by_model(users, table)(slice(0, items))
    alone = torch.cat([score.by_model(users[i : i + 1], table)(slice(0, items)) for i in range(batch)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    some = score.by_model(users[: batch // 2 + 1], table)(slice(0, items))
    torch.testing.assert_close(together[: batch // 2 + 1], some, rtol=1e-5, atol=1e-5)
