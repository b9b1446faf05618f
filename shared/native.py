"""Loops compiled to machine code where torch would need many small operations, whose start takes longer than they do.

Compiled on the first call with given types, and kept beside the source or where NUMBA_CACHE_DIR says. Other threads run
meanwhile: the interpreter's lock is not held.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Final, TypeVar, cast

import numba
import torch

F = TypeVar("F", bound=Callable[..., object])
# Sums may be taken in any order, so they run in parallel; NaN and infinity stay what they are.
FREEDOMS: Final = {"reassoc", "contract", "nsz", "arcp"}
MARK: Final = b"from shared.native import"


def kept_in(packages: list[Path], base: Path) -> Path:
    """A folder of its own for these sources: numba compiles anew when a function's own file has changed, but not when
    one has that it calls.
    """
    files = sorted(path for package in packages for path in package.rglob("*.py"))
    contents = [content for path in files if MARK in (content := path.read_bytes())]
    return base / hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]


_HERE: Final = Path(__file__).parent
_CONFIG: Final = vars(numba.config)  # which numba fills from the environment
_CONFIG["CACHE_DIR"] = str(
    kept_in([_HERE, _HERE.parent / "services"], Path(_CONFIG["CACHE_DIR"] or _HERE / "__pycache__"))
)


def native(body: F) -> F:
    """The same function of arrays and numbers, compiled. Indices are not checked: the caller answers for them."""
    return cast(F, numba.njit(nogil=True, cache=True, fastmath=FREEDOMS, error_model="numpy")(body))


def exact(body: F) -> F:
    """`native` with every operation as written: where it matters by how much a sum may be wrong."""
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(body))


def spread(work: Callable[[int, int], object], count: int, least: int) -> None:
    """work(start, stop) of all of [0, count), in as many parts as torch may use threads, of at least `least` each."""
    parts = max(1, min(torch.get_num_threads(), count // least))
    cuts = [count * part // parts for part in range(parts + 1)]
    if parts == 1:
        work(0, count)
    else:
        list(_pool(parts).map(work, cuts[:-1], cuts[1:]))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "native")
