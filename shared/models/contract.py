"""What every servable model offers, and the item table that it fills: score = users @ vectors.T + bias.

A model is a folder: config.json {"kind", "config"} and weights.safetensors. `load` reads any kind. An item's
row depends on that item's state alone, so a table is kept fresh by encoding only what changed (`put`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.graph.state import ItemNode, UserState

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "weights.safetensors"
TABLE_FILE: Final = "table.safetensors"
ITEMS_FILE: Final = "items.json"

# kind -> "module:class"; a class has `read(folder, device)`. Imported on use, so serving one kind loads one file.
KINDS: Final[Mapping[str, str]] = {
    "popularity": "shared.models.popularity:Popularity",
    "finestream": "shared.models.finestream:Finestream",
    **dict.fromkeys(("sasrec", "gru4rec", "bert4rec", "narm", "srgnn"), "shared.models.sequence_model:Served"),
    "llmesr": "shared.models.llmesr:LLMESR",
}


@dataclass
class ItemTable:
    """One row an item: scoring vectors (N, D), bias (N,), and named tensors (N, ...) that encode_users reads.

    `extra["users"]` (N,) holds in every kind how many distinct users met the item, about.
    """

    item_ids: list[str]
    vectors: Tensor
    bias: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    row_of: dict[str, int] = field(init=False, repr=False, compare=False)
    _held: dict[str, Tensor] = field(init=False, repr=False, compare=False)  # (capacity, ...), once `put` was called

    def __post_init__(self) -> None:
        self.row_of = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self._held = {}
        for name, tensor in self._tensors().items():
            if tensor.shape[0] != len(self.item_ids):
                raise ValueError(f"{name} has {tensor.shape[0]} rows for {len(self.item_ids)} items")
        if len(self.row_of) != len(self.item_ids):
            raise ValueError("an item id occurs twice")

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def held_bytes(self) -> int:
        """Of the tensors, with the room for more rows."""
        return sum(tensor.nbytes for tensor in (self._held or self._tensors()).values())

    def put(self, rows: "ItemTable") -> Tensor:
        """Write `rows` by id, in place: known items' rows are replaced, others appended in order. Returns which
        rows these are now, (M,) int64.

        Costs what `rows` costs, and now and then a copy of the table into a larger place. Nobody may read meanwhile;
        `vectors`, `bias` and `extra` are to be read anew afterwards.
        Raises ValueError, and changes nothing, where the two tables do not have tensors of the same names and widths.
        """
        new, old = rows._tensors(), self._held or {name: tensor.clone() for name, tensor in self._tensors().items()}
        if {name: of.shape[1:] for name, of in new.items()} != {name: of.shape[1:] for name, of in old.items()}:
            raise ValueError("the tables do not have tensors of the same names and widths")
        if not self._held:
            self.item_ids = list(self.item_ids)  # another table may have the same list, and `put` appends
        for item_id in rows.item_ids:
            if item_id not in self.row_of:
                self.row_of[item_id] = len(self.item_ids)
                self.item_ids.append(item_id)
        at = torch.tensor([self.row_of[item_id] for item_id in rows.item_ids], dtype=torch.int64)
        self._held = {name: with_room(held, len(self)) for name, held in old.items()}
        for name, held in self._held.items():
            held.index_copy_(0, at.to(held.device), new[name].to(held.device, held.dtype))
        shown = {name: held[: len(self)] for name, held in self._held.items()}
        self.vectors, self.bias = shown.pop("vectors"), shown.pop("bias")
        self.extra = {name.removeprefix("extra."): tensor for name, tensor in shown.items()}
        return at

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "ItemTable":
        """The table on `device`; `dtype` (bf16 on a GPU) is for the scoring vectors, the rest stays as it is."""
        return ItemTable(
            self.item_ids,
            self.vectors.to(device, dtype),
            self.bias.to(device),
            {name: tensor.to(device) for name, tensor in self.extra.items()},
        )

    def save(self, folder: Path) -> None:
        """Write the snapshot: table.safetensors and items.json (ids in row order)."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        save_file(tensors, folder / TABLE_FILE)
        (folder / ITEMS_FILE).write_text(json.dumps(self.item_ids))

    @staticmethod
    def read(folder: Path, device: str = "cpu") -> "ItemTable":
        """Read a snapshot that `save` wrote."""
        tensors = load_file(folder / TABLE_FILE, device=device)
        item_ids = json.loads((folder / ITEMS_FILE).read_text())
        vectors, bias = tensors.pop("vectors"), tensors.pop("bias")
        return ItemTable(item_ids, vectors, bias, {k.removeprefix("extra."): v for k, v in tensors.items()})

    def _tensors(self) -> dict[str, Tensor]:
        extra = {f"extra.{name}": tensor for name, tensor in self.extra.items()}
        return {"vectors": self.vectors, "bias": self.bias, **extra}


class Servable(Protocol):
    """A model that ranking can serve. Both encoders run without gradients and without dropout."""

    kind: str
    space: str

    def encode_items(self, items: Sequence[ItemNode]) -> ItemTable:
        """One row an item, in the given order; a row never depends on the other items of the call."""
        ...

    def encode_users(self, users: Sequence[UserState], table: ItemTable, now: float) -> Tensor:
        """Users as (B, D) at `now` (seconds since 1970); a row never depends on who else is in the batch.

        Items of a history that are not in the table are passed over. A user without any history is a row like
        another: it scores as the table's bias does.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write config.json and weights.safetensors into an existing folder."""
        ...


def score(users: Tensor, table: ItemTable) -> Tensor:
    """(B, D) -> (B, N) float32."""
    return (users.to(table.vectors.dtype) @ table.vectors.T).float() + table.bias.float()


def load(folder: Path, device: str = "cpu") -> Servable:
    """The model in a bundle's folder, of whatever kind. Raises ValueError for a kind that this code does not know."""
    config = read_config(folder)
    where = KINDS.get(config["kind"])
    if where is None:
        raise ValueError(f"model kind {config['kind']!r} is not one of {', '.join(KINDS)}")
    module, name = where.split(":")
    return cast(Servable, getattr(import_module(module), name).read(folder, device))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model's folder."""
    return cast(dict[str, Any], json.loads((folder / CONFIG_FILE).read_text()))


def write_config(folder: Path, kind: str, space: str, config: Mapping[str, Any]) -> None:
    """Write config.json."""
    text = json.dumps({"kind": kind, "space": space, "config": dict(config)}, indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text + "\n")


def with_room(held: Tensor, rows: int) -> Tensor:
    """(capacity, ...) with at least that many rows: itself, or a copy with a quarter more than was asked for."""
    if rows <= len(held):
        return held
    larger = held.new_empty((rows + rows // 4, *held.shape[1:]))
    larger[: len(held)] = held
    return larger
