"""A score's sum on a CPU: in float64, column after column, then the bias, rounded to float32 once.

Always in this order, so a score is the same number whoever shares the batch and by whatever way its row was found:
products of float32 are exact in float64, and only the order of the sum could tell two ways apart.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.native import exact

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Numbers = NDArray[np.int64]
AT_ONCE: Final = 256  # rows of a table that are laid out by columns
STEP: Final = 4  # columns that are added before the sums of so many rows are written again


@exact
def of_pair(users: Doubles, request: int, vectors: Floats, bias: Floats, row: int) -> float:
    total = 0.0
    for column in range(users.shape[1]):
        total += users[request, column] * vectors[row, column]
    return np.float32(total + bias[row])  # type: ignore[return-value]


@exact
def of_rows(users: Doubles, request: int, vectors: Floats, bias: Floats, rows: Numbers, scores: Floats) -> None:
    """One user's scores of rows (M,) -> scores (M,); four at once, since each sum waits for its own last column."""
    user, whole = users[request], len(rows) // STEP * STEP
    for at in range(0, whole, STEP):
        a, b, c, d = vectors[rows[at]], vectors[rows[at + 1]], vectors[rows[at + 2]], vectors[rows[at + 3]]
        sums = 0.0, 0.0, 0.0, 0.0
        for column in range(len(user)):
            u = user[column]
            sums = sums[0] + u * a[column], sums[1] + u * b[column], sums[2] + u * c[column], sums[3] + u * d[column]
        for one in range(STEP):
            scores[at + one] = np.float32(sums[one] + bias[rows[at + one]])
    for at in range(whole, len(rows)):
        scores[at] = of_pair(users, request, vectors, bias, rows[at])


@exact
def of_pairs(users: Doubles, vectors: Floats, bias: Floats, requests: Numbers, rows: Numbers, scores: Floats) -> None:
    """Users (B, D), vectors (N, D), requests and rows (M,) -> scores (M,)."""
    for pair in range(len(rows)):
        scores[pair] = of_pair(users, requests[pair], vectors, bias, rows[pair])


@exact
def of_all(users: Doubles, vectors: Floats, bias: Floats, scores: Floats) -> None:
    """Users (B, D), vectors (N, D) -> scores (B, N)."""
    width = -(-users.shape[1] // STEP) * STEP  # columns of zeros leave a sum what it is
    padded = np.zeros((len(users), width))
    padded[:, : users.shape[1]] = users
    columns = np.zeros((width, min(AT_ONCE, len(vectors))), np.float32)
    totals = np.empty(columns.shape[1])
    for start in range(0, len(vectors), AT_ONCE):
        count = min(AT_ONCE, len(vectors) - start)
        for column in range(users.shape[1]):
            for row in range(count):
                columns[column, row] = vectors[start + row, column]
        for request in range(len(users)):
            totals[:] = 0.0
            for at in range(0, width, STEP):
                a, b, c, d = (
                    padded[request, at],
                    padded[request, at + 1],
                    padded[request, at + 2],
                    padded[request, at + 3],
                )
                for row in range(count):
                    total = totals[row] + a * columns[at, row] + b * columns[at + 1, row]
                    totals[row] = total + c * columns[at + 2, row] + d * columns[at + 3, row]
            for row in range(count):
                scores[request, start + row] = np.float32(totals[row] + bias[start + row])
