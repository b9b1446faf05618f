"""A copy of the item table in one byte a number: read first, it says which items a user's best may be among.

A row x is held as integers c and a scale a, so that x = a c + (what is left); a user q likewise as a' d and what is
left. By the triangle and Cauchy-Schwarz inequalities

    q·x + bias  <=  a' a (d·c)  +  |q| |x - a c|  +  |q - a' d| |a c|  +  bias,

so the product of integers, which is a quarter of the reading and a fraction of the work, bounds the score from
above, however the numbers lie: a row whose bound is below a floor is surely below it. What is left need not be
small for that; it says how many rows are looked at again. All is divided by a', the user's unit, and the two
factors of the user by their largest in the batch, so that they are numbers and no columns.

What float32 adds: each bound is made of fewer than ten operations, each wrong by at most 2^-24 of the largest
term, |q| (|a c| + |x - a c|), |q - a' d| |a c|, or |bias|; a floor above those cannot be reached, one below them moves
by less than the score is above it. SLACK, 64 times as much, is part of the columns. Scales are at least LEAST, so
that a product of scale and integer never underflows; TINY is more than underflow can take elsewhere (2^-149 of a
score is at most 2^-89 in units). Rows with a scale above MOST, whose products might overflow, have an infinite bound.
NaN, as from a user who is none, counts as above every floor.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from shared.models.contract import ItemTable, with_room

# Processors without VNNI add pairs of products in 16 bits, and saturate: (63 + 128) * 85 * 2 and (85 + 128) * 63 * 2
# fit, whichever operand oneDNN shifts by 128.
LARGEST_OF_ITEM: Final = 85
LARGEST_OF_USER: Final = 63
SLACK: Final = 2.0**-18
LEAST: Final = 2.0**-60
MOST: Final = 2.0**60
TINY: Final = 2.0**-80
NARROWEST: Final = 2  # torch 2.13 multiplies integer matrices of one column wrongly
ROWS_AT_ONCE: Final = 16_384  # made in float64


class Codes:
    """Rows as those of the item table. Memory: D + 16 bytes a row, of a table of 4 D + 4."""

    def __init__(self, width: int) -> None:
        self._count = 0
        self._codes = torch.empty((0, max(width, NARROWEST)), dtype=torch.int8)  # (capacity, D)
        self._columns = [torch.empty(0) for _ in range(4)]  # (capacity,) scale; with slack: residual, norm, bias
        self._scratch = Scratch()

    def __len__(self) -> int:
        return self._count

    @property
    def row_bytes(self) -> int:
        """Memory of a row, without what is reserved for more rows."""
        return sum(of[:1].numel() * of.element_size() for of in (self._codes, *self._columns))

    def follow(self, table: ItemTable, rows: Tensor) -> None:
        """Make these rows (M,) of the table anew; those behind the last one must be among them."""
        self._count = len(table)
        self._codes = with_room(self._codes, self._count)
        self._columns = [with_room(column, self._count) for column in self._columns]
        for some in rows.split(ROWS_AT_ONCE):
            codes, scales, residuals, norms = coded(table.vectors[some], LARGEST_OF_ITEM)
            bias = table.bias[some].double()
            norms = torch.where(scales > MOST, torch.inf, norms)
            slack = SLACK * (norms + residuals) + TINY
            made = (scales, residuals + slack, norms + slack, bias + SLACK * bias.abs())
            self._codes[some] = codes
            for column, values in zip(self._columns, made, strict=True):
                column[some] = values.float()

    def bounds(self, users: Tensor) -> "Bounds":
        """Bounds of these users' (B, D) scores, until the next are asked for."""
        return Bounds(users, self._codes, self._columns, self._scratch)


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

    def __init__(self, users: Tensor, codes: Tensor, columns: Sequence[Tensor], scratch: Scratch) -> None:
        self._users, units, residuals, _ = coded(users, LARGEST_OF_USER)
        self._codes, self._scratch = codes, scratch
        self._scale, self._residual, self._norm, self._bias = columns
        self._of_residual = max(float((users.double().norm(dim=1) / units.double()).amax()), 1.0)
        self._of_norm = float((residuals / units.double()).amax())
        self._inverse = 1 / units  # (B,)

    def upper(self, rows: slice) -> Tensor:
        """(B, T): no score of these rows is larger. Overwritten by the next call."""
        shape = (len(self._users), len(self._scale[rows]))
        products = torch._int_mm(self._users, self._codes[rows].T, out=self._scratch.of(torch.int32, *shape))
        apart = torch.add(self._of_norm * self._norm[rows], self._residual[rows], alpha=self._of_residual)  # (T,)
        bounds = self._scratch.of(torch.float32, *shape).copy_(products)
        return torch.addcmul(apart, bounds, self._scale[rows], out=bounds).addcmul_(
            self._inverse[:, None], self._bias[rows]
        )

    def units(self, scores: Tensor) -> Tensor:
        return scores * self._inverse


def coded(vectors: Tensor, largest: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(M, D) -> integers of at most `largest` (M, D or NARROWEST) int8, scales (M,) float32, two norms (M,) float64:
    of what is left of the vector, and of what integers and scale hold."""
    scales = (vectors.float().abs().amax(1) / largest).clamp_min(LEAST)
    codes = (vectors.float() / scales[:, None]).round_().clamp_(-largest, largest).to(torch.int8)
    held = codes.double() * scales.double()[:, None]
    padded = F.pad(codes, (0, max(0, NARROWEST - codes.shape[1])))
    return padded, scales, (vectors.double() - held).norm(dim=1), held.norm(dim=1)
