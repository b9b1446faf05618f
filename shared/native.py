"""Loops compiled to machine code where torch would need many small operations, whose start takes longer than they do.

Compiled on the first call with given types and kept beside the source, or where NUMBA_CACHE_DIR says. Other threads run
meanwhile: the interpreter's lock is not held.
"""

from collections.abc import Callable
from typing import Final, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])
# Sums may be taken in any order, so they run in parallel; NaN and infinity stay what they are.
FREEDOMS: Final = {"reassoc", "contract", "nsz", "arcp"}


def native(body: F) -> F:
    """The same function of arrays and numbers, compiled. Indices are not checked: the caller answers for them."""
    return cast(F, numba.njit(nogil=True, cache=True, fastmath=FREEDOMS, error_model="numpy")(body))


def exact(body: F) -> F:
    """`native` with every operation as written: where it matters by how much a sum may be wrong."""
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(body))
