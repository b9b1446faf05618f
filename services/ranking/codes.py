"""A copy of the item table in one byte a number: read first, it says which items a user's best may be among.

A row x is held as integers c and a scale a, so that x = a c + (what is left); a user q likewise as a' d and what is
left. By the triangle and Cauchy-Schwarz inequalities

    q·x + bias  <=  a' a (d·c)  +  |q| |x - a c|  +  |q - a' d| |a c|  +  bias,

so the product of integers, which is a quarter of the reading and a fraction of the work, bounds the score from
above, however the numbers lie: a row whose bound is below a floor is surely below it. What is left need not be
small for that; it says how many rows are looked at again. All is divided by a', the user's unit, and the two
factors of the user by their largest in the batch, so that they are numbers and no columns. The rows of a block share
their scale, so with the largest of each column there is one integer for a block that d·c must reach in any of its
rows: nearly all is done when the largest d·c of each block has been compared with it.

What float32 adds: each bound is made of fewer than ten operations, each wrong by at most 2^-24 of the largest
term, |q| (|a c| + |x - a c|), |q - a' d| |a c|, or |bias|; a floor above those cannot be reached, one below them moves
by less than the score is above it. SLACK, 64 times as much, is part of the columns. Scales are at least LEAST, so
that a product of scale and integer never underflows; TINY is more than underflow can take elsewhere (2^-149 of a
score is at most 2^-89 in units). A block's integer is lowered by 1 and by 2^-20 of itself. Rows with a scale above
MOST, whose products might overflow, have an infinite bound.
NaN, as from a user who is none, counts as above every floor.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from shared.models.contract import ItemTable, with_room
from shared.native import exact

Floats = NDArray[np.float32]

# Processors without VNNI add pairs of products in 16 bits, and saturate: (63 + 128) * 85 * 2 and (85 + 128) * 63 * 2
# fit, whichever operand oneDNN shifts by 128.
LARGEST_OF_ITEM: Final = 85
LARGEST_OF_USER: Final = 63
SLACK: Final = 2.0**-18
LEAST: Final = 2.0**-60
MOST: Final = 2.0**60
TINY: Final = 2.0**-80
FAR: Final = 2.0**30  # beyond any product of integers
BLOCK: Final = 32  # rows
NARROWEST: Final = 2  # torch 2.13 multiplies integer matrices of one column wrongly
BLOCKS_AT_ONCE: Final = 512  # made in float64


class Codes:
    """Rows as those of the item table. Memory: D + 12.5 bytes a row, of a table of 4 D + 4."""

    def __init__(self, width: int) -> None:
        self._count = 0
        self._codes = torch.empty((0, BLOCK, max(width, NARROWEST)), dtype=torch.int8)
        self._rows = [torch.empty(0, BLOCK) for _ in range(3)]  # residual, norm, bias, each with slack
        self._blocks = [torch.empty(0) for _ in range(4)]  # scale, and the largest of each of those
        self._scratch = Scratch()

    def __len__(self) -> int:
        return self._count

    @property
    def held_bytes(self) -> int:
        """With the room for more rows."""
        return sum(column.nbytes for column in (self._codes, *self._rows, *self._blocks))

    @property
    def row_bytes(self) -> float:
        """What one row more takes, without room."""
        return sum(column[:1].nbytes for column in (self._codes, *self._rows, *self._blocks)) / BLOCK

    def follow(self, table: ItemTable, rows: Tensor) -> None:
        """Make these rows (M,) of the table anew, and with them their blocks; those behind the last one must be among
        them."""
        self._count = len(table)
        blocks = -(-self._count // BLOCK)
        self._codes = with_room(self._codes, blocks)
        self._rows = [with_room(column, blocks) for column in self._rows]
        self._blocks = [with_room(column, blocks) for column in self._blocks]
        for some in torch.unique(rows // BLOCK).split(BLOCKS_AT_ONCE):
            self._make(table, some)

    def _make(self, table: ItemTable, blocks: Tensor) -> None:
        members = blocks[:, None] * BLOCK + torch.arange(BLOCK)
        members.clamp_(max=self._count - 1)  # what is behind the last row is as the last row
        vectors, bias = table.vectors[members.flatten()], table.bias[members].double()
        scales = scales_of(vectors, LARGEST_OF_ITEM).view(-1, BLOCK).amax(1)  # (M,)
        codes, residuals, norms = coded(vectors, scales.repeat_interleave(BLOCK), LARGEST_OF_ITEM)
        norms = norms.view(-1, BLOCK).masked_fill(scales[:, None] > MOST, torch.inf)
        residuals = residuals.view(-1, BLOCK)
        slack = SLACK * (norms + residuals) + TINY
        self._codes[blocks] = codes.view(len(blocks), BLOCK, self._codes.shape[2])
        self._blocks[0][blocks] = scales
        made = (residuals + slack, norms + slack, bias + SLACK * bias.abs())
        for of_rows, of_blocks, values in zip(self._rows, self._blocks[1:], made, strict=True):
            of_rows[blocks] = values.float()
            of_blocks[blocks] = values.float().amax(1)

    def bounds(self, users: Tensor) -> "Bounds":
        """Bounds of these users' (B, D) scores, until the next are asked for."""
        return Bounds(users, self._count, self._codes, self._rows, self._blocks, self._scratch)


class Scratch:
    """Memory that is written again and again: the system's pages of new memory cost more than the product."""

    def __init__(self) -> None:
        self._held: dict[torch.dtype, Tensor] = {}

    def of(self, dtype: torch.dtype, *shape: int) -> Tensor:
        """One tensor of each type at a time."""
        size = math.prod(shape)
        if dtype not in self._held or len(self._held[dtype]) < size:
            self._held[dtype] = torch.empty(size, dtype=dtype)
        return self._held[dtype][:size].view(shape)


class Bounds:
    """Of B users' scores, from above, in units of each user's own."""

    def __init__(
        self,
        users: Tensor,
        count: int,
        codes: Tensor,
        rows: Sequence[Tensor],
        blocks: Sequence[Tensor],
        scratch: Scratch,
    ) -> None:
        self._count, self._codes, self._scratch = count, codes.flatten(0, 1), scratch
        self._of_rows, self._of_blocks = rows, blocks
        self._users = torch.zeros(len(users), codes.shape[2], dtype=torch.int8)
        self.factors = np.empty((len(users), 3), np.float32)  # of 1 / a', what a row left, and what it holds
        _code_users(users.float().contiguous().numpy(), self._users.numpy(), self.factors)
        self._inverse = torch.from_numpy(self.factors[:, 0])
        self._of_residual, self._of_norm = (float(largest) for largest in self.factors[:, 1:].max(0))

    def units(self, scores: Tensor) -> Tensor:
        """Scores (B,) in the units of bounds."""
        return scores * self._inverse

    @property
    def columns(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Of all blocks the scale, of all their rows residual, norm and bias, each with slack."""
        blocks = -(-self._count // BLOCK)
        residual, norm, bias = (column[:blocks].flatten().numpy() for column in self._of_rows)
        return self._of_blocks[0][:blocks].numpy(), residual, norm, bias

    def integers(self) -> Tensor:
        """(B, N), with what is behind the last row of the last block: overwritten by the next call."""
        return self._products(slice(0, -(-self._count // BLOCK) * BLOCK))

    def upper(self, rows: slice) -> Tensor:
        """(B, T): no score of these rows is larger."""
        numbers = torch.arange(rows.start, rows.stop, rows.step or 1)
        columns = self._row_columns(numbers)
        return torch.addcmul(self._beside(columns, self._inverse[:, None]), self._products(rows).float(), columns[0])

    def near(self, rows: slice, floor: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs of request and row, each (M,), whose bound is not below the request's floor (B,), in units.

        `rows` begins with a block.
        """
        blocks = slice(rows.start // BLOCK, -(-rows.stop // BLOCK))
        products = self._products(slice(rows.start, blocks.stop * BLOCK)).unflatten(1, (-1, BLOCK))  # (B, T / 32, 32)
        least = self._least(blocks, floor)  # (B, T / 32)
        request, block = (products.amax(2) >= least).nonzero(as_tuple=True)
        some = products.flatten(0, 1).index_select(0, request * products.shape[1] + block)  # (M, 32)
        within, at = (some >= least[request, block][:, None]).nonzero(as_tuple=True)
        request, row = request[within], (block[within] + blocks.start) * BLOCK + at
        columns = self._row_columns(row)
        upper = torch.addcmul(self._beside(columns, self._inverse[request]), some[within, at].float(), columns[0])
        near = ~(upper < floor[request]) & (row < rows.stop)
        return request[near], row[near]

    def _least(self, blocks: slice, floor: Tensor) -> Tensor:
        """(B, blocks) int32: what the product of integers must reach for a bound to reach the floor."""
        columns = [column[blocks] for column in self._of_blocks]
        least = (floor[:, None] - self._beside(columns, self._inverse[:, None])).div_(columns[0])
        least.sub_(least.abs().mul_(2.0**-20).add_(1))
        return least.nan_to_num_(nan=-FAR, posinf=FAR, neginf=-FAR).clamp_(-FAR, FAR).to(torch.int32)

    def _row_columns(self, rows: Tensor) -> list[Tensor]:
        """Scale, residual, norm, and bias of rows (M,)."""
        of_rows = [column.flatten().index_select(0, rows) for column in self._of_rows]
        return [self._of_blocks[0].index_select(0, rows // BLOCK), *of_rows]

    def _beside(self, columns: Sequence[Tensor], inverse: Tensor) -> Tensor:
        """What a bound has beside the product of integers; shapes that fit each other."""
        _, residual, norm, bias = columns
        return torch.add(self._of_norm * norm, residual, alpha=self._of_residual) + inverse * bias

    def _products(self, rows: slice) -> Tensor:
        """(B, T) int32; overwritten by the next call."""
        codes = self._codes[rows].T  # (D, T)
        return torch._int_mm(self._users, codes, out=self._scratch.of(torch.int32, len(self._users), codes.shape[1]))


@exact
def _code_users(users: Floats, codes: NDArray[np.int8], factors: Floats) -> None:
    """As `coded`, in a loop: users (B, D) -> codes (B, D or more), factors (B, 3). The factor of what a row left is at
    least 1: slack is a part of that column."""
    for user in range(len(users)):
        largest = np.float32(0.0)
        for at in range(users.shape[1]):
            largest = max(largest, abs(users[user, at]))
        unit = max(largest / np.float32(LARGEST_OF_USER), np.float32(LEAST))
        left, whole = 0.0, 0.0
        for at in range(users.shape[1]):
            number = users[user, at]
            code = min(max(np.rint(number / unit), np.float32(-LARGEST_OF_USER)), np.float32(LARGEST_OF_USER))
            codes[user, at] = np.int8(code)
            rest = np.float64(number) - np.float64(codes[user, at]) * np.float64(unit)
            left += rest * rest
            whole += np.float64(number) * np.float64(number)
        factors[user, 0] = np.float32(1.0) / unit
        factors[user, 1] = max(np.sqrt(whole) / unit, 1.0) if whole == whole else np.nan
        factors[user, 2] = np.sqrt(left) / unit


def scales_of(vectors: Tensor, largest: int) -> Tensor:
    """(M, D) -> (M,) float32, so that integers of at most `largest` hold them."""
    return (vectors.float().abs().amax(1) / largest).clamp_min(LEAST)


def coded(vectors: Tensor, scales: Tensor, largest: int) -> tuple[Tensor, Tensor, Tensor]:
    """(M, D), (M,) -> integers (M, D or NARROWEST) int8, and two norms (M,) float64: of what is left of the vector, and
    of what integers and scale hold."""
    codes = (vectors.float() / scales[:, None]).round_().clamp_(-largest, largest).to(torch.int8)
    held = codes.double() * scales.double()[:, None]
    padded = F.pad(codes, (0, max(0, NARROWEST - codes.shape[1])))
    return padded, (vectors.double() - held).norm(dim=1), held.norm(dim=1)
