"""A fit's state on disk: one safetensors file, its scalars as JSON in the file's own header.

One file is replaced by one rename, so whatever is found was written whole.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from shared.errors import FailedPrecondition

FILE: Final = "training.safetensors"
HEADER: Final = "training"


def write(folder: Path, settings: Mapping[str, Any], scalars: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Replace the folder's checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"settings": dict(settings), "scalars": dict(scalars)})
    whole, part = folder / FILE, folder / f"{FILE}.part"
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, part, {HEADER: header})
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(whole)


def read(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Scalars and tensors, or None where there is no checkpoint. Raises for a checkpoint of other settings."""
    path = folder / FILE
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[HEADER])
        differ = sorted(
            name for name in {*header["settings"], *settings} if header["settings"].get(name) != settings.get(name)
        )
        if differ:
            raise FailedPrecondition(f"the checkpoint in {folder} is of another fit: {', '.join(differ)} differ")
        return header["scalars"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
