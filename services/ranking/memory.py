"""Is there room for another bundle? Asked before its model is loaded, and again before its item table is filled.

How wide a row is only the model knows, so the second answer comes from the first rows that it encoded. What grows is
copied into a place with a quarter more, so for a moment both are held. That moment is when the system would end the
process, so the most that may be held is compared with what is free.
"""

from pathlib import Path
from typing import Final

import torch

from services.ranking.generation import Generation
from shared.hardware import free_memory

LOADING: Final = 2.0  # of the files: what is read, and the model that it is copied into
GROWING: Final = 2.25  # of what the rows take: the old place, and the new one
MEGABYTE: Final = 1_000_000


class TooLarge(Exception):
    """One sentence: what is needed, and what is free."""


class Memory:
    """`limit`: bytes of the host that this process may hold; 0: its container's limit, or what the machine has."""

    def __init__(self, limit: int, device: str) -> None:
        self._limit = limit
        self._device = device

    def afford_model(self, folder: Path) -> None:
        """Raises TooLarge where the model in a bundle's folder should not be loaded."""
        files = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        self._check("its model", host=LOADING * files, device=files)

    def afford_rows(self, generation: Generation, rows: int) -> None:
        """Raises TooLarge where a generation with its first rows should not grow to so many."""
        if generation.release.model is None:
            return  # what knows no more than who met what must fit: there is nothing smaller
        facts, table = rows * generation.facts.row_bytes, GROWING * rows * generation.row_bytes
        self._check(f"its {rows} items", host=facts + (0 if self._device == "cuda" else table), device=table)

    def _check(self, what: str, host: float, device: float) -> None:
        if host > (free := free_memory(self._limit)):
            raise TooLarge(
                f"{what} may take {_megabytes(host)} of memory and {_megabytes(free)} are free;"
                " give the process more, or set FINESTREAM_RANKING_MEMORY_BYTES"
            )
        if self._device == "cuda" and device > (free := _free_of_gpu()):
            raise TooLarge(f"{what} may take {_megabytes(device)} of the GPU's memory and {_megabytes(free)} are free")


def _free_of_gpu() -> int:
    """With what torch holds and does not use."""
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _megabytes(count: float) -> str:
    return f"{max(0.0, count) / MEGABYTE:,.1f} MB"
