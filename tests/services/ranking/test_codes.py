"""services/ranking/codes.py: bounds hold whatever the numbers, on every processor, and rows are followed in place."""

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.ranking.codes import LARGEST_OF_ITEM, LARGEST_OF_USER, Codes
from shared.models.contract import ItemTable

LARGEST = torch.finfo(torch.float32).max
# Few values, so that there are equal and zero rows; ones at the ends of what float32 has; and any.
NUMBERS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 0.5, 3.0, 1e-45, -1e-38, 1e-30, 1e20, -3e38, 3e38]),
    st.floats(-4, 4, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Users (B, D), vectors (N, D), bias (N,)."""
    users, items, width = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 8) | st.integers(30, 70)),
        draw(st.integers(1, 4)),
    )

    def matrix(rows: int) -> Tensor:
        return torch.tensor(draw(st.lists(NUMBERS, min_size=rows * width, max_size=rows * width))).view(rows, width)

    return matrix(users), matrix(items), torch.tensor(draw(st.lists(NUMBERS, min_size=items, max_size=items)))


def table_of(vectors: Tensor, bias: Tensor) -> ItemTable:
    return ItemTable([str(row) for row in range(len(bias))], vectors, bias)


def codes_of(vectors: Tensor, bias: Tensor) -> Codes:
    codes = Codes(vectors.shape[1])
    codes.follow(table_of(vectors, bias), torch.arange(len(bias)))
    return codes


def scores_of(user: Tensor, vectors: Tensor, bias: Tensor) -> list[float]:
    """(N,) float32, each the true sum rounded once."""
    products = (user.double() * vectors.double()).tolist()  # exact
    sums = [math.fsum([*row, c]) for row, c in zip(products, bias.tolist(), strict=True)]
    return torch.tensor(sums, dtype=torch.float64).float().tolist()


@settings(deadline=None, max_examples=500)
@given(tables())
def test_no_score_is_above_its_bound(case: tuple[Tensor, Tensor, Tensor]) -> None:
    users, vectors, bias = case
    bounds = codes_of(vectors, bias).bounds(users)
    upper = bounds.upper(slice(0, len(bias)))
    for user in range(len(users)):
        for row, score in enumerate(scores_of(users[user], vectors, bias)):
            floor = bounds.units(torch.full((len(users),), min(score, LARGEST)))
            assert not upper[user, row] < floor[user]
            requests, rows = bounds.near(slice(0, len(bias)), floor)
            assert (user, row) in zip(requests.tolist(), rows.tolist(), strict=True)


def test_bounds_are_near_the_scores_where_numbers_are_alike() -> None:
    numbers = torch.Generator().manual_seed(1)
    users, vectors = torch.randn(4, 64, generator=numbers), torch.randn(500, 64, generator=numbers)
    bounds = codes_of(vectors, torch.zeros(500)).bounds(users)
    above = bounds.upper(slice(0, 500)) / bounds.units(torch.ones(4))[:, None] - users @ vectors.T
    assert 0 < above.min() < above.max() < 3.5  # of scores with a deviation of 8


@settings(deadline=None, max_examples=50)
@given(tables(), st.data())
def test_rows_that_are_followed_in_place_are_as_those_made_at_once(
    case: tuple[Tensor, Tensor, Tensor], data: st.DataObject
) -> None:
    users, vectors, bias = case
    held = data.draw(st.integers(0, len(bias)))
    table = table_of(torch.randn(held, vectors.shape[1]), torch.randn(held))
    codes = Codes(vectors.shape[1])
    codes.follow(table, torch.arange(held))
    for row in data.draw(st.permutations(range(held))) + list(range(held, len(bias))):
        codes.follow(table, table.put(ItemTable([str(row)], vectors[row : row + 1], bias[row : row + 1])))
    whole = slice(0, len(bias))
    expected = codes_of(vectors, bias).bounds(users).upper(whole)
    assert len(codes) == len(bias)
    assert torch.equal(codes.bounds(users).upper(whole).nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("isa", ["ALL", "AVX512_CORE", "AVX2", "SSE41"])
def test_products_of_integers_are_exact_on_older_processors(isa: str) -> None:
    """Without VNNI, pairs of products are added in 16 bits, which saturate."""
    program = f"""if True:
        import torch
        for width in (2, 3, 64, 65, 300):
            for users in (1, 3, 8, 64):
                signs = torch.where(torch.rand(257, width) < 0.5, -1, 1).to(torch.int8)
                signs[0], signs[1] = 1, -1
                items = {LARGEST_OF_ITEM} * signs
                for asked in (torch.full((users, width), {LARGEST_OF_USER}), torch.full((users, width), -{LARGEST_OF_USER})):
                    found = torch._int_mm(asked.to(torch.int8), items.T)
                    assert torch.equal(found.long(), asked @ items.long().T), (width, users)
    """
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa}, check=True)
