"""Score: how well each item fits, a tile of items at a time, so that B x N scores never lie in memory at once."""

import math
from collections.abc import Callable, Sequence
from typing import Final

from torch import Tensor

from services.ranking.facts import Facts
from services.ranking.job import Job
from shared.models.contract import ItemTable, Servable

Rows = slice | Tensor  # which rows of the item table
Tiles = Callable[[Rows], Tensor]  # rows -> (B, T) float32
# A matrix product's last bits depend on its shape. With the number of users rounded up, every request's row
# comes out the same whoever shares its batch.
ROUND_CPU: Final = 8
ROUND_CUDA: Final = 64


def encode(jobs: Sequence[Job], model: Servable, table: ItemTable, now: float) -> Tensor:
    """The users of jobs as (B, D); `now` in seconds since 1970."""
    return model.encode_users([job.user for job in jobs], table, now).to(table.vectors.device)


def by_model(users: Tensor, table: ItemTable) -> Tiles:
    """score = users (B, D) @ vectors.T + bias."""
    count = len(users)
    step = ROUND_CUDA if table.vectors.is_cuda else ROUND_CPU
    padded = users.new_zeros((math.ceil(count / step) * step, users.shape[1]), dtype=table.vectors.dtype)
    padded[:count] = users

    def tile(rows: Rows) -> Tensor:
        return (padded @ table.vectors[rows].T)[:count].float().add_(table.bias[rows])

    return tile


def by_popularity(facts: Facts, count: int) -> Tiles:
    """score = about how many distinct users met the item; the same (B, T) row for everybody."""

    def tile(rows: Rows) -> Tensor:
        return facts.users[rows].repeat(count, 1)

    return tile
