"""A generation: one model and the catalogue as that model sees it. Built beside the old one, then swapped in.

Rows of `facts` and `table` are the same items in the same order. Every method runs in the inference thread.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch

from services.ranking.codes import Codes
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
        self.codes: Codes | None = None  # of the table, on a CPU

    @property
    def row_of(self) -> Mapping[str, int]:
        """The table's own where there is one: the model looks the same items up next, and finds them in the cache."""
        return self.facts.row_of if self.table is None else self.table.row_of

    @property
    def table_bytes(self) -> int:
        """Of the item table and its codes, with the room for more rows."""
        return (self.table.held_bytes if self.table else 0) + (self.codes.held_bytes if self.codes else 0)

    @property
    def row_bytes(self) -> float:
        """Of one row of the item table and its codes, without room; 0 while there is none."""
        if self.table is None or not len(self.table):
            return 0.0
        table, codes = self.table.held_bytes / len(self.table), self.codes
        return table + (codes.row_bytes if codes else 0.0)

    def put(self, nodes: Sequence[ItemNode]) -> None:
        """Replace the rows of known items, append the new ones, in place: nobody reads between two batches.

        Raises ValueError, and changes nothing, where the model gives other items or numbers that are none.
        """
        if not nodes:
            return
        if self.release.model:
            self._tabulate(self._encoded(self.release.model, nodes))
        self.facts.put(nodes)

    def _tabulate(self, rows: ItemTable) -> None:
        if self.table is None:
            self.table, at = rows, torch.arange(len(rows))
            self.codes = None if rows.vectors.is_cuda else Codes(rows.vectors.shape[1])
        else:
            at = self.table.put(rows)
        if self.codes is not None:
            self.codes.follow(self.table, at)

    def _encoded(self, model: Servable, nodes: Sequence[ItemNode]) -> ItemTable:
        rows = model.encode_items(nodes)
        if rows.item_ids != [node.item_id for node in nodes]:
            raise ValueError("the model encoded other items than it was given")
        if not (torch.isfinite(rows.vectors).all() and torch.isfinite(rows.bias).all()):
            raise ValueError("the model's item vectors are not finite")
        return rows.to(self.device, scoring_dtype(self.device))
