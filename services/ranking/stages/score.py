"""Score: how well each item fits, a tile of items at a time, so that B x N scores never lie in memory at once.

On a CPU a score is summed in float64, always in one order, and rounded once (sums.py), so it does not depend on the
tile, on who shares the batch, or on the way by which a row was found; and since only the few rows are scored that
bounds (codes.py) do not rule out, it costs little. On a GPU a tile is one product of bf16 matrices.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor

from services.ranking.codes import Bounds, Codes
from services.ranking.facts import Facts
from services.ranking.job import Job
from services.ranking.stages import sums
from shared.models.contract import ItemTable, Servable

Rows = slice | Tensor  # which rows of the item table
# On a GPU a product's last bits depend on its shape. With the number of users rounded up, every request's row comes
# out the same whoever shares its batch.
ROUND: Final = 64


class Scores(Protocol):
    """Of B requests."""

    def tile(self, rows: Rows) -> Tensor:
        """(B, T) float32, the caller's own."""
        ...


@runtime_checkable
class Bounded(Scores, Protocol):
    """Scores with bounds that are cheaper than they are."""

    def upper(self, rows: slice) -> Tensor:
        """(B, T) float32, the caller's own: what no score is larger than, in units of each request's own; NaN where
        nothing is known."""
        ...

    def near(self, rows: slice, floor: Tensor) -> tuple[Tensor, Tensor]:
        """Requests and rows (M,) of the pairs with a bound that is not below the request's floor (B,), in units.

        `rows` begins with a block of codes.
        """
        ...

    def units(self, scores: Tensor) -> Tensor:
        """Scores (B,) in those units."""
        ...

    def pairs(self, requests: Tensor, rows: Tensor) -> Tensor:
        """(M,) float32, of one request and row each; the same numbers as in a tile."""
        ...


def encode(jobs: Sequence[Job], model: Servable, table: ItemTable, now: float) -> Tensor:
    """The users of jobs as (B, D); `now` in seconds since 1970."""
    return model.encode_users([job.user for job in jobs], table, now).to(table.vectors.device)


def by_model(users: Tensor, table: ItemTable, codes: Codes | None) -> Scores:
    """score = users (B, D) @ vectors.T + bias. `codes`: of that table, where it is on a CPU."""
    return OnGpu(users, table) if codes is None else OnCpu(users, table, codes)


class OnCpu:
    def __init__(self, users: Tensor, table: ItemTable, codes: Codes) -> None:
        self.users = users.float().contiguous()
        self.doubles = self.users.double().numpy()
        # Compiled loops are compiled once, so what they are given is always laid out alike.
        self.vectors, self.bias = table.vectors.contiguous(), table.bias.contiguous()
        self._codes = codes

    @cached_property
    def bounds(self) -> Bounds:
        return self._codes.bounds(self.users)

    def upper(self, rows: slice) -> Tensor:
        return self.bounds.upper(rows)

    def near(self, rows: slice, floor: Tensor) -> tuple[Tensor, Tensor]:
        return self.bounds.near(rows, floor)

    def units(self, scores: Tensor) -> Tensor:
        return self.bounds.units(scores)

    def tile(self, rows: Rows) -> Tensor:
        vectors, bias = self.vectors[rows].contiguous(), self.bias[rows].contiguous()
        scores = torch.empty(len(self.users), len(vectors))
        sums.of_all(self.doubles, vectors.numpy(), bias.numpy(), scores.numpy())
        return scores

    def pairs(self, requests: Tensor, rows: Tensor) -> Tensor:
        scores = torch.empty(len(rows))
        table = self.vectors.numpy(), self.bias.numpy()
        sums.of_pairs(self.doubles, *table, requests.numpy(), rows.numpy(), scores.numpy())
        return scores


class OnGpu:
    def __init__(self, users: Tensor, table: ItemTable) -> None:
        self._count, self._table = len(users), table
        shape = (math.ceil(len(users) / ROUND) * ROUND, users.shape[1])
        self._padded = users.new_zeros(shape, dtype=table.vectors.dtype)
        self._padded[: len(users)] = users

    def tile(self, rows: Rows) -> Tensor:
        products = (self._padded @ self._table.vectors[rows].T)[: self._count]
        return products.float().add_(self._table.bias[rows])


class ByPopularity:
    """score = about how many distinct users met the item; the same for everybody."""

    def __init__(self, facts: Facts, count: int) -> None:
        self._users, self._count = facts.users, count

    def tile(self, rows: Rows) -> Tensor:
        return self._users[rows].repeat(self._count, 1)

    def upper(self, rows: slice) -> Tensor:
        return self.tile(rows)

    def near(self, rows: slice, floor: Tensor) -> tuple[Tensor, Tensor]:
        requests, at = (self._users[None, rows] >= floor[:, None]).nonzero(as_tuple=True)
        return requests, at + rows.start

    def units(self, scores: Tensor) -> Tensor:
        return scores

    def pairs(self, requests: Tensor, rows: Tensor) -> Tensor:
        return self._users[rows]
