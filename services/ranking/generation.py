"""A generation: one model and the catalogue as that model sees it. Built beside the old one, then swapped in.

Rows of `facts` and `table` are the same items in the same order. Every method runs in the inference thread.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from services.ranking.facts import Facts
from services.ranking.inference import scoring_dtype
from shared.graph.state import ItemNode
from shared.models.contract import ItemTable, Servable


class Release:
    """What a generation serves: a loaded model and where it came from; none of it before the first bundle."""

    def __init__(self, version: str = "", model: Servable | None = None, data_timestamp: float = 0.0) -> None:
        self.version = version
        self.model = model
        self.data_timestamp = data_timestamp

    @property
    def space(self) -> str:
        """Empty: graph_updater's own."""
        return self.model.space if self.model else ""

    @property
    def kind(self) -> str:
        return self.model.kind if self.model else "popular"


NO_RELEASE: Final = Release()


class Generation:
    def __init__(self, release: Release = NO_RELEASE, device: str = "cpu") -> None:
        self.release = release
        self.device = device
        self.facts = Facts(device)
        self.table: ItemTable | None = None
        self._pieces: list[ItemTable] = []

    def collect(self, nodes: Sequence[ItemNode]) -> None:
        """Add items that have no row yet, cheaply; `seal` makes the table of them."""
        if not nodes:
            return
        if self.release.model:
            self._pieces.append(self._encoded(self.release.model, nodes))
        self.facts.put(nodes)

    def seal(self) -> None:
        """Join what was collected into the table. Raises ValueError where a model gave numbers that are none."""
        if self._pieces:
            self.table = joined(self._pieces)
            self._pieces = []
            if not (torch.isfinite(self.table.vectors).all() and torch.isfinite(self.table.bias).all()):
                raise ValueError("the model's item table is not finite")

    def put(self, nodes: Sequence[ItemNode]) -> None:
        """Replace the rows of known items, append the new ones. Between two batches: nobody reads meanwhile."""
        if not nodes:
            return
        if self.release.model:
            rows = self._encoded(self.release.model, nodes)
            self.table = rows if self.table is None else _put(self.table, rows)
        self.facts.put(nodes)

    def _encoded(self, model: Servable, nodes: Sequence[ItemNode]) -> ItemTable:
        rows = model.encode_items(nodes)
        if rows.item_ids != [node.item_id for node in nodes]:
            raise ValueError("the model encoded other items than it was given")
        return rows.to(self.device, scoring_dtype(self.device))


def joined(tables: Sequence[ItemTable]) -> ItemTable:
    """One table of all rows; no item is in two."""
    return ItemTable(
        [item_id for table in tables for item_id in table.item_ids],
        torch.cat([table.vectors for table in tables]),
        torch.cat([table.bias for table in tables]),
        {name: torch.cat([table.extra[name] for table in tables]) for name in tables[0].extra},
    )


def _put(table: ItemTable, rows: ItemTable) -> ItemTable:
    """ItemTable.updated without its copy where no item is new: the whole table would move for a single row."""
    if any(item_id not in table.row_of for item_id in rows.item_ids):
        return table.updated(rows)
    at = torch.tensor([table.row_of[item_id] for item_id in rows.item_ids], device=table.vectors.device)
    for held, new in _columns(table, rows):
        held.index_copy_(0, at, new.to(held.device, held.dtype))
    return table


def _columns(table: ItemTable, rows: ItemTable) -> list[tuple[Tensor, Tensor]]:
    if table.extra.keys() != rows.extra.keys():
        raise KeyError("the tables do not have the same named tensors")
    extra = [(table.extra[name], rows.extra[name]) for name in table.extra]
    return [(table.vectors, rows.vectors), (table.bias, rows.bias), *extra]
