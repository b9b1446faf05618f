"""Sequences on disk: written user by user and read as memory maps, in memory that does not grow with the log.

The result is the Sequences that the same users give in memory.
"""

import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final, overload

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from shared.models.sequences import Met, Sequences, questions

BUFFER: Final = 1 << 13  # numbers of a column that wait to be written
COLUMNS: Final = {
    "offsets": np.int64,
    "items": np.int64,
    "times": np.float64,
    "asked_at": np.int64,
    "asked_for": np.int64,
    "name_ends": np.int64,  # of the users' ids, one after the other
    "names": np.uint8,
}


def write(folder: Path, met: Iterable[Met], repeats: bool = False) -> Sequences:
    """Whole users, in the order that they come in -> Sequences in a new folder, opened."""
    if folder.exists():
        raise FileExistsError(folder)
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _write_columns(part, met, repeats)
    part.rename(folder)  # whatever has the name was written whole
    return read(folder)


def read(folder: Path) -> Sequences:
    """Nothing is read before it is asked for."""
    c: dict[str, Any] = {name: _mapped(folder / f"{name}.npy") for name in COLUMNS}
    names = Names(c["names"], c["name_ends"])
    return Sequences(names, c["offsets"], c["items"], c["times"], c["asked_at"], c["asked_for"])


class Names(Sequence[str]):
    """Users' ids, each read when it is asked for."""

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self._text, self._ends = text, ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[n] for n in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        start = self._ends[at - 1] if at else 0
        return self._text[start : self._ends[at]].tobytes().decode()


class _Column:
    """A .npy file that grows; its header says how long it is once it is closed."""

    def __init__(self, file: BinaryIO, dtype: Any) -> None:
        self.file, self.dtype = file, np.dtype(dtype)
        self.count = 0
        self.waiting: list[Any] = []
        self._header()

    def add(self, values: Iterable[Any]) -> None:
        self.waiting += values
        if len(self.waiting) >= BUFFER:
            self._flush()

    def close(self) -> None:
        self._flush()
        self.file.seek(0)
        self._header()  # numpy leaves room for a longer shape

    def _flush(self) -> None:
        self.file.write(np.array(self.waiting, self.dtype).tobytes())
        self.count += len(self.waiting)
        self.waiting.clear()

    def _header(self) -> None:
        described = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.count,)}
        npy.write_array_header_1_0(self.file, described)


def _write_columns(folder: Path, met: Iterable[Met], repeats: bool) -> None:
    with ExitStack() as opened:
        columns = {
            name: _Column(opened.enter_context((folder / f"{name}.npy").open("wb")), dtype)
            for name, dtype in COLUMNS.items()
        }
        start = end_of_name = 0
        columns["offsets"].add([0])
        for user_id, rows, times in met:
            found = list(questions(rows, times, repeats))
            name = user_id.encode()
            columns["items"].add(rows)
            columns["times"].add(times)
            columns["asked_at"].add(start + place for place, _ in found)
            columns["asked_for"].add(row for _, row in found)
            columns["names"].add(name)
            start, end_of_name = start + len(rows), end_of_name + len(name)
            columns["offsets"].add([start])
            columns["name_ends"].add([end_of_name])
        for column in columns.values():
            column.close()


def _mapped(path: Path) -> NDArray[Any]:
    found: NDArray[Any] = np.load(path, mmap_mode="r") if _length(path) else np.load(path)
    return found


def _length(path: Path) -> int:
    with path.open("rb") as file:
        npy.read_magic(file)
        shape, _, _ = npy.read_array_header_1_0(file)
    return int(shape[0])
