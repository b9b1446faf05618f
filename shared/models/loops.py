"""Parts of networks as compiled loops over one sequence: float32, row after row, everything in place.

Row-major arrays; a product's rows and its inner length are multiples of STEP, so that four of each share what is read.
Whoever has fewer rows fills up with zeros. Shapes: L rows, I and O lengths of rows, H heads.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.native import exact, native

Floats = NDArray[np.float32]
STEP: Final = 4
EPSILON: Final = np.float32(1e-5)  # torch's, of a LayerNorm
ZERO, HALF, ONE, TWO = (np.float32(number) for number in (0.0, 0.5, 1.0, 2.0))
ROOT_HALF: Final = np.float32(0.5**0.5)
DENSITY: Final = np.float32((2 * math.pi) ** -0.5)
LOWEST, HIGHEST = np.float32(-87.0), np.float32(88.0)  # beyond, float32 has no exp
# exp as in Cephes (Moshier): 2^n by the bits of n, and a polynomial of what is left, ln 2 in two parts.
PER_LN2: Final = np.float32(1.44269504088896341)
LN2, LN2_REST = np.float32(0.693359375), np.float32(-2.12194440e-4)
E0, E1, E2, E3, E4, E5 = (
    np.float32(number)
    for number in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)


@exact
def exp(x: np.float32) -> np.float32:
    """To the last bit or two; a loop of it runs in parallel, as one of math.exp does not."""
    x = min(max(x, LOWEST), HIGHEST)
    n = np.floor(x * PER_LN2 + HALF)
    r = x - n * LN2
    r = r - n * LN2_REST
    y = (((((E0 * r + E1) * r + E2) * r + E3) * r + E4) * r + E5) * r * r + r + ONE
    return y * np.int32((np.int32(n) + 127) << 23).view(np.float32)  # type: ignore[no-any-return]


@native
def gelu(x: np.float32) -> np.float32:
    return HALF * x * (ONE + np.float32(math.erf(x * ROOT_HALF)))


@native
def gelu_slope(x: np.float32) -> np.float32:
    return HALF * (ONE + np.float32(math.erf(x * ROOT_HALF))) + x * DENSITY * exp(-HALF * x * x)


@native
def tanh_all(x: Floats) -> None:
    """(L,)"""
    for at in range(len(x)):
        # (e - 1) / (e + 1) loses what is near 0, but no more than float32's last digit of 1
        e = exp(TWO * min(max(x[at], np.float32(-9.0)), np.float32(9.0)))
        x[at] = (e - ONE) / (e + ONE)


@native
def up_to_step(count: int) -> int:
    return (count + STEP - 1) // STEP * STEP


@native
def fill(y: Floats, rows: int, row: Floats) -> None:
    """Each of the first rows of y becomes `row`."""
    for at in range(rows):
        for o in range(len(row)):
            y[at, o] = row[o]


@native
def add_product(
    x: Floats, x_from: int, w: Floats, w_from: int, y: Floats, y_from: int, rows: int, inner: int, outer: int
) -> None:
    """y (rows, outer) += x (rows, inner) @ w (inner, outer), each from a column of its own on."""
    for at in range(0, rows, STEP):
        for i in range(0, inner, STEP):
            column = x_from + i
            a0, a1, a2, a3 = x[at, column], x[at, column + 1], x[at, column + 2], x[at, column + 3]
            b0, b1, b2, b3 = x[at + 1, column], x[at + 1, column + 1], x[at + 1, column + 2], x[at + 1, column + 3]
            c0, c1, c2, c3 = x[at + 2, column], x[at + 2, column + 1], x[at + 2, column + 2], x[at + 2, column + 3]
            d0, d1, d2, d3 = x[at + 3, column], x[at + 3, column + 1], x[at + 3, column + 2], x[at + 3, column + 3]
            for o in range(outer):
                w0, w1, w2, w3 = w[i, w_from + o], w[i + 1, w_from + o], w[i + 2, w_from + o], w[i + 3, w_from + o]
                y[at, y_from + o] += a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
                y[at + 1, y_from + o] += b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
                y[at + 2, y_from + o] += c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
                y[at + 3, y_from + o] += d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3


@native
def mapped(x: Floats, w: Floats, shift: Floats, y: Floats) -> None:
    """y (O,) = x (I,) @ w (I, O) + shift (O,)"""
    for o in range(len(y)):
        y[o] = shift[o]
    for i in range(len(x)):
        a = x[i]
        for o in range(len(y)):
            y[o] += a * w[i, o]


@native
def dot(x: Floats, y: Floats) -> np.float32:
    total = ZERO
    for at in range(len(x)):
        total += x[at] * y[at]
    return total


@native
def softmax(x: Floats, count: int) -> None:
    """Of the first numbers of x (L,), in place; the others become 0."""
    top = x[0]
    for at in range(count):
        top = max(top, x[at])
    for at in range(count, len(x)):
        x[at] = LOWEST
    for at in range(len(x)):
        x[at] = exp(x[at] - top)
    total = ZERO
    for at in range(count):
        total += x[at]
    share = ONE / total
    for at in range(len(x)):
        x[at] = x[at] * share if at < count else ZERO


@native
def normalised(x: Floats, gain: Floats, shift: Floats, y: Floats) -> None:
    """LayerNorm of one row: (O,) -> y (O,)"""
    mean, square = ZERO, ZERO
    for o in range(len(x)):
        mean += x[o]
    mean /= np.float32(len(x))
    for o in range(len(x)):
        square += (x[o] - mean) * (x[o] - mean)
    scale = ONE / math.sqrt(square / np.float32(len(x)) + EPSILON)
    for o in range(len(x)):
        y[o] = (x[o] - mean) * scale * gain[o] + shift[o]


@native
def attend_causally(
    asked: Floats, questions: Floats, rows: int, heads: int, keys: Floats, scores: Floats, met: Floats
) -> None:
    """met (L, d): what each row's question meets up to its own place.

    asked (L, 3d): keys and values; questions (L, 3d): behind 2d, divided by the root of a head's length; each head
    after head. keys (d/H, L) and scores (STEP, L) are overwritten. `rows` is a multiple of STEP.
    """
    d = met.shape[1]
    length = d // heads
    met[:rows] = ZERO
    for head in range(heads):
        column = head * length
        for at in range(rows):
            row = asked[at]
            for o in range(length):
                keys[o, at] = row[column + o]
        for first in range(0, rows, STEP):
            end = first + STEP
            scores[:, :end] = ZERO
            add_product(questions[first:end], 2 * d + column, keys, 0, scores, 0, STEP, length, end)
            for at in range(STEP):
                softmax(scores[at, :end], first + at + 1)
            add_product(scores, 0, asked, d + column, met[first:end], column, STEP, end, length)
