"""services/ranking/stages/select.py, scan.py: what is picked is a full sort's, whatever tiles, bounds, filters, ties."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.ranking.codes import Codes
from services.ranking.facts import Facts
from services.ranking.job import Job, Pick
from services.ranking.requests import Query
from services.ranking.stages import score, select
from services.ranking.stages.allowed import Allowed
from services.ranking.stages.running import Running
from services.ranking.stages.scan import in_full, scan
from services.ranking.stages.score import Bounded, OnCpu, Rows, Scores
from services.ranking.stages.shortlist import fits, shortlist
from shared.models.contract import ItemTable
from tests.services.ranking.doubles import item_of

SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, math.inf, -math.inf, math.nan]),  # many ties, and what is no number
    st.floats(width=32, allow_nan=False),
)


@dataclass(frozen=True)
class Given:
    """Scores (B, N) that are known."""

    values: Tensor

    def tile(self, rows: Rows) -> Tensor:
        return self.values[:, rows].clone()


@dataclass(frozen=True)
class GivenBounds(Given):
    """And bounds: the scores and something (B, N), NaN included."""

    above: Tensor

    def upper(self, rows: slice) -> Tensor:
        return (self.values + self.above)[:, rows]

    def near(self, rows: slice, floor: Tensor) -> tuple[Tensor, Tensor]:
        requests, at = (~(self.upper(rows) < floor[:, None])).nonzero(as_tuple=True)
        return requests, at + rows.start

    def units(self, scores: Tensor) -> Tensor:
        return scores

    def pairs(self, requests: Tensor, rows: Tensor) -> Tensor:
        return self.values[requests, rows]


@dataclass(frozen=True)
class Case:
    scores: Tensor
    available: Tensor
    banned: list[set[int]]
    only: list[Tensor | None]
    k: int
    tile: int

    @property
    def allowed(self) -> Allowed:
        return Allowed(self.available, self.banned, self.only)

    @property
    def sorted_in_full(self) -> list[list[Pick]]:
        return [self._of(request) for request in range(len(self.scores))]

    def _of(self, request: int) -> list[Pick]:
        only = self.only[request]
        allowed = self.available if only is None else self.available & only
        rows = {row for row, able in enumerate(allowed.tolist()) if able} - self.banned[request]
        return sorted_in_full(self.scores[request], rows, self.k)


def sorted_in_full(scores: Tensor, rows: set[int], k: int) -> list[Pick]:
    able = [(row, s) for row, s in enumerate(scores.tolist()) if row in rows and s > -math.inf]
    return [Pick(row, s) for row, s in sorted(able, key=lambda pair: (-pair[1], pair[0]))[:k]]


@st.composite
def cases(draw: st.DrawFn, many: bool = False) -> Case:
    b, n = draw(st.integers(1, 4)), draw(st.integers(200, 3000) if many else st.integers(1, 40))
    values = draw(st.lists(SCORES, min_size=b * n, max_size=b * n)) if not many else drawn(draw, b * n)
    available = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)) if not many else [True] * n)
    banned = [draw(st.sets(st.integers(0, n - 1), max_size=40)) for _ in range(b)]
    masks = st.none() | st.integers(1, 5).map(lambda step: torch.arange(n) % step == 0)
    only = [draw(masks) for _ in range(b)]
    return Case(
        torch.tensor(values).view(b, n), available, banned, only, draw(st.integers(1, 45)), draw(st.integers(1, 45))
    )


def drawn(draw: st.DrawFn, count: int) -> list[float]:
    """Numbers of one seed, so many that no example could have each drawn: spread, with ties, or rising."""
    numbers = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    spread = torch.randn(count, generator=numbers)
    kind = draw(st.sampled_from(["spread", "ties", "rising", "equal"]))
    return {"spread": spread, "ties": (2 * spread).round(), "rising": spread.sort().values, "equal": 0 * spread}[
        kind
    ].tolist()


@settings(deadline=None, max_examples=300)
@given(cases())
def test_the_tiled_top_k_equals_a_full_sort(case: Case) -> None:
    found = Running(len(case.scores), case.k, torch.device("cpu"))
    in_full(found, Given(case.scores), case.allowed, slice(0, len(case.available)), case.tile)
    assert found.picks() == case.sorted_in_full


@settings(deadline=None, max_examples=300)
@given(cases() | cases(many=True), st.data())
def test_the_scan_equals_a_full_sort_whatever_the_bounds(case: Case, data: st.DataObject) -> None:
    wide = data.draw(st.sampled_from([0.0, 0.01, 1.0, 100.0]))
    above = wide * torch.rand(case.scores.shape, generator=torch.Generator().manual_seed(1))
    above[
        torch.rand(above.shape, generator=torch.Generator().manual_seed(2)) < data.draw(st.sampled_from([0, 0.01]))
    ] = torch.nan
    scores = GivenBounds(case.scores, above)
    assert isinstance(scores, Bounded)
    small = data.draw(st.sampled_from([8, 96, 256]))
    assert scan(scores, case.allowed, case.k, case.tile, small=small, at_once=1024).picks() == case.sorted_in_full


@settings(deadline=None, max_examples=300)
@given(cases())
def test_the_top_k_of_given_rows_equals_a_full_sort(case: Case) -> None:
    rows = {row for row, able in enumerate(case.available.tolist()) if able}
    found = select.best_of(Given(case.scores[:1]), case.available, case.banned[0], case.k, case.tile)
    assert found == sorted_in_full(case.scores[0], rows & case.banned[0], case.k)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Tensor, ItemTable]:
    """Users and a table of small integers times powers of two: sums are exact, so scores do not depend on their order.

    Rows repeat, are zero, tiny or huge; a bias may be larger than all else.
    """
    b, n, width = draw(st.integers(1, 9)), draw(st.integers(1, 2000)), draw(st.integers(1, 12))
    numbers = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    most, spread = draw(st.integers(0, 9)), draw(st.sampled_from([0, 3, 100]))

    def matrix(rows: int) -> Tensor:
        exponents = torch.randint(-spread, spread + 1, (rows, 1), generator=numbers)
        return torch.randint(-most, most + 1, (rows, width), generator=numbers) * 2.0**exponents

    bias = matrix(n)[:, 0] * draw(st.sampled_from([0.0, 1.0, 1000.0]))
    return matrix(b), ItemTable([str(row) for row in range(n)], matrix(n), bias)


@st.composite
def filters(draw: st.DrawFn, requests: int, rows: int) -> Allowed:
    """Of everything, of some, of nothing."""
    numbers = torch.Generator().manual_seed(draw(st.integers(0, 1000)))

    def mask() -> Tensor:
        return torch.rand(rows, generator=numbers) < draw(st.sampled_from([0.0, 0.01, 0.5, 1.0]))

    banned = [set((~mask()).nonzero()[:, 0].tolist()) for _ in range(requests)]
    return Allowed(mask(), banned, [mask() if draw(st.booleans()) else None for _ in range(requests)])


def scored_in_full(scores: Scores, allowed: Allowed, k: int) -> list[list[Pick]]:
    found = Running(len(allowed), k, torch.device("cpu"))
    in_full(found, scores, allowed, slice(0, allowed.rows), 1000)
    return found.picks()


@settings(deadline=None, max_examples=300)
@given(tables(), st.integers(1, 60) | st.integers(200, 2500), st.sampled_from([32, 96, 512]), st.data())
def test_scan_and_shortlist_equal_every_row_scored_and_sorted(
    case: tuple[Tensor, ItemTable], k: int, small: int, data: st.DataObject
) -> None:
    users, table = case
    scores = scores_by_codes(users, table)
    allowed = data.draw(filters(len(users), len(table)))
    full = (users.double() @ table.vectors.double().T + table.bias.double()).float()
    picked = allowed.masked(full, slice(0, len(table)))
    expected = [sorted_in_full(of_user, set(range(len(table))), k) for of_user in picked]
    assert scan(scores, allowed, k, 1000, small=small, at_once=2048).picks() == expected
    assert shortlist(scores, allowed, k) == expected


def scores_by_codes(users: Tensor, table: ItemTable) -> OnCpu:
    codes = Codes(users.shape[1])
    codes.follow(table, torch.arange(len(table)))
    scores = score.by_model(users, table, codes)
    assert isinstance(scores, OnCpu)
    assert isinstance(scores, Bounded)
    return scores


def table_of(vectors: Tensor, bias: Tensor | None = None) -> ItemTable:
    return ItemTable(
        [str(row) for row in range(len(vectors))], vectors, torch.zeros(len(vectors)) if bias is None else bias
    )


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 1000), st.integers(1, 40), st.sampled_from([0.0, 1e-8, 1e-7, 1e-6, 1e-3, 1.0, 1e10]))
def test_a_shortlist_is_right_where_scores_differ_by_less_than_float32_is_wrong_by(
    seed: int, k: int, spread: float
) -> None:
    numbers = torch.Generator().manual_seed(seed)
    users = torch.randn(3, 16, generator=numbers)
    vectors = 1.0 + spread * torch.randn(3000, 16, generator=numbers)
    scores, allowed = (
        scores_by_codes(users, table_of(vectors)),
        Allowed(torch.ones(3000, dtype=torch.bool), [set()] * 3),
    )
    assert shortlist(scores, allowed, k) == scored_in_full(scores, allowed, k)


def test_where_float32_loses_what_tells_rows_apart_the_best_are_found_all_the_same() -> None:
    numbers = torch.Generator().manual_seed(1)
    large, small = torch.randn(3000, 16, generator=numbers), 1e-7 * torch.randn(3000, 1, generator=numbers)
    vectors = torch.cat([large, small, -large.flip(1)], dim=1)  # a score is what is small: the rest is cancelled
    scores = scores_by_codes(torch.ones(1, 33), table_of(vectors))
    allowed = Allowed(torch.ones(3000, dtype=torch.bool), [set()])
    best = [pick.row for pick in shortlist(scores, allowed, 10)[0]]
    assert best == small[:, 0].topk(10).indices.tolist()
    assert best != (scores.users @ vectors.T).topk(10).indices[0].tolist()


@pytest.mark.parametrize("size", [2.0**-62, 2.0**-70, 2.0**-76])
def test_where_float32_underflows_the_best_are_found_all_the_same(size: float) -> None:
    numbers = torch.Generator().manual_seed(1)
    vectors = size * torch.randn(3000, 33, generator=numbers)
    scores = scores_by_codes(size * torch.randn(1, 33, generator=numbers), table_of(vectors))
    allowed = Allowed(torch.ones(3000, dtype=torch.bool), [set()])
    assert shortlist(scores, allowed, 10) == scored_in_full(scores, allowed, 10)


AWKWARD = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 2.0**64, -(2.0**64), 3e38, -3e38])
NO_NUMBERS = st.sampled_from([math.nan, math.inf, -math.inf])


@settings(deadline=None, max_examples=300)
@given(st.data(), st.integers(1, 4), st.integers(1, 40), st.integers(1, 3), st.integers(1, 50))
def test_overflow_signed_zeros_and_users_who_are_no_numbers_are_picked_alike_by_every_way(
    data: st.DataObject, b: int, n: int, width: int, k: int
) -> None:
    def matrix(rows: int, of: st.SearchStrategy[float]) -> Tensor:
        return torch.tensor(data.draw(st.lists(of, min_size=rows * width, max_size=rows * width))).view(rows, width)

    bias = matrix(n, AWKWARD)[:, 0] * data.draw(st.sampled_from([0.0, 1.0]))
    scores = scores_by_codes(matrix(b, AWKWARD | NO_NUMBERS), table_of(matrix(n, AWKWARD), bias))
    allowed = data.draw(filters(b, n))
    expected = repr(scored_in_full(scores, allowed, k))  # tells -0.0 from 0.0
    assert repr(shortlist(scores, allowed, k)) == expected
    assert repr(scan(scores, allowed, k, 1000, small=32, at_once=64).picks()) == expected


def test_scores_that_float32_cannot_hold_on_the_way_are_exact() -> None:
    users = torch.full((1, 2), 2.0**64)
    vectors = torch.tensor([[-(2.0**64), 2.0**63]] * 3)  # -2^128, which float32 has not, and 2^127
    scores = scores_by_codes(users, table_of(vectors))
    allowed = Allowed(torch.ones(3, dtype=torch.bool), [set()])
    assert shortlist(scores, allowed, 2) == [[Pick(0, -(2.0**127)), Pick(1, -(2.0**127))]]


def test_a_score_that_is_rounded_to_minus_zero_is_zero() -> None:
    scores = scores_by_codes(torch.tensor([[1e-45]]), table_of(torch.tensor([[-1e-45], [0.0], [1e-45], [-0.0]])))
    allowed = Allowed(torch.ones(4, dtype=torch.bool), [set()])
    expected = repr([[Pick(row, 0.0) for row in range(4)]])
    assert repr(shortlist(scores, allowed, 4)) == repr(scored_in_full(scores, allowed, 4)) == expected


def test_a_bias_that_is_no_number_leaves_its_row_alone_out() -> None:
    scores = scores_by_codes(torch.ones(1, 2), table_of(torch.ones(4, 2), torch.tensor([0.0, 1.0, 2.0, 3.0])))
    for bad in (math.nan, -math.inf):
        scores.bias[3] = bad
        found = shortlist(scores, Allowed(torch.ones(4, dtype=torch.bool), [set()]), 4)
        assert found == [[Pick(2, 4.0), Pick(1, 3.0), Pick(0, 2.0)]]


def test_a_shortlist_of_other_requests_or_rows_than_are_scored_is_refused() -> None:
    scores = scores_by_codes(torch.ones(2, 2), table_of(torch.ones(4, 2)))
    for rows, requests in ((4, 1), (5, 2)):
        with pytest.raises(ValueError, match="other requests or other rows"):
            shortlist(scores, Allowed(torch.ones(rows, dtype=torch.bool), [set()] * requests), 1)


def test_a_banned_row_that_the_table_has_not_is_passed_over() -> None:
    scores = scores_by_codes(torch.ones(1, 2), table_of(torch.ones(2, 2)))
    assert shortlist(scores, Allowed(torch.ones(2, dtype=torch.bool), [{1, 10**9}]), 2) == [[Pick(0, 2.0)]]


@settings(deadline=None, max_examples=50)
@given(st.data(), st.integers(2, 20), st.integers(1, 600), st.integers(1, 30), st.sampled_from([1e-7, 1.0]))
def test_a_request_is_answered_alike_whoever_shares_its_batch(
    data: st.DataObject, batch: int, items: int, k: int, spread: float
) -> None:
    numbers = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    users, vectors = torch.randn(batch, 24, generator=numbers), 1 + spread * torch.randn(items, 24, generator=numbers)
    table, codes = table_of(vectors, torch.randn(items, generator=numbers)), Codes(24)
    codes.follow(table, torch.arange(items))
    banned = [data.draw(st.sets(st.integers(0, items - 1), max_size=40)) for _ in range(batch)]
    masks = [data.draw(st.none() | st.just(torch.arange(items) % 3 == 0)) for _ in range(batch)]
    available = torch.rand(items, generator=numbers) < 0.9
    together = select.best(OnCpu(users, table, codes), Allowed(available, banned, masks), k, 1000)
    for at in range(batch):
        alone = Allowed(available, banned[at : at + 1], masks[at : at + 1])
        assert repr(select.best(OnCpu(users[at : at + 1], table, codes), alone, k, 1000)) == repr([together[at]])


def test_few_rows_are_scored_in_a_large_table() -> None:
    class Counted(score.OnCpu):
        scored = 0

        def tile(self, rows: Rows) -> Tensor:
            raise AssertionError("no tile is crowded here")

        def pairs(self, requests: Tensor, rows: Tensor) -> Tensor:
            self.scored += len(rows)
            return super().pairs(requests, rows)

    numbers = torch.Generator().manual_seed(1)
    n = 100_000
    table = ItemTable(
        [str(row) for row in range(n)], torch.randn(n, 32, generator=numbers), torch.randn(n, generator=numbers)
    )
    codes = Codes(32)
    codes.follow(table, torch.arange(n))
    users = torch.randn(4, 32, generator=numbers)
    scores = Counted(users, table, codes)
    assert not fits(scores, Allowed(torch.ones(n, dtype=torch.bool), [set()] * 4))
    found = select.best(scores, Allowed(torch.ones(n, dtype=torch.bool), [set()] * 4), 50, 1000)
    expected = (users.double() @ table.vectors.double().T + table.bias.double()).float().topk(50).values
    assert [[pick.score for pick in picks] for picks in found] == expected.tolist()
    assert scores.scored < 0.03 * 4 * n


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 33), st.integers(1, 24), st.integers(0, 5), st.integers(1, 600), st.integers(0, 1000))
def test_a_users_scores_are_the_same_bits_whoever_shares_the_batch_and_however_they_are_found(
    batch: int, pairs: int, more: int, items: int, seed: int
) -> None:
    """Of numbers that cancel each other, up to what their sum has lost: any other order of a sum shows."""
    numbers = torch.Generator().manual_seed(seed)
    large, small = torch.randn(items, pairs, generator=numbers) * 2.0**50, torch.randn(items, more, generator=numbers)
    vectors = torch.cat([large, -large, small], dim=1)[:, torch.randperm(2 * pairs + more, generator=numbers)]
    users = torch.randint(1, 9, (batch, 1), generator=numbers).expand(-1, vectors.shape[1]).float()
    table = table_of(vectors, torch.randn(items, generator=numbers))
    scores = scores_by_codes(users, table)
    tile = scores.tile(slice(0, items))
    requests, rows = torch.cartesian_prod(torch.arange(batch), torch.arange(items)).T.contiguous()
    assert torch.equal(scores.pairs(requests, rows).view(batch, items), tile)
    for request, row in zip(
        *(torch.randint(0, most, (20,), generator=numbers).tolist() for most in (batch, items)), strict=True
    ):
        assert scores_by_codes(users[request : request + 1], table).tile(torch.tensor([row])) == tile[request, row]
        terms = (users[request].double() * table.vectors[row].double()).tolist()
        assert np.float32(sum_in_order(terms) + table.bias[row].item()) == tile[request, row].item()


def sum_in_order(numbers: Sequence[float]) -> float:
    """sum() makes up for what rounding loses."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def test_a_category_with_much_of_the_catalogue_and_one_with_little_of_it_are_ranked_alike() -> None:
    facts = Facts()
    facts.put([item_of(f"i{row}", users=row % 50) for row in range(400)])
    rows = [None, set(range(0, 400, 2)), set(range(0, 400, 50)), set()]
    jobs = [Job(Query(str(at), 5), 0.0, rows=some, banned={49, 48}, wanted=5) for at, some in enumerate(rows)]

    def scores_of(which: list[int]) -> Scores:
        return score.ByPopularity(facts, len(which))

    select.fill(jobs, scores_of, facts.available, 64)
    shown = [[pick.row for pick in job.picks] for job in jobs]
    assert shown == [[99, 149, 199, 249, 299], [98, 148, 198, 248, 298], [0, 50, 100, 150, 200], []]
