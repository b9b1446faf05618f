"""What ranking knows of each item beside the model's vectors: a row an item, in the item table's order.

Host memory a row: the id, its categories' row sets, a few hundred bytes of opinions, and some 30 bytes of
numbers. Written and read by jobs of the inference thread only; the loop may read single values.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import torch
from torch import Tensor

from services.ranking import opinions
from shared import topics
from shared.graph.fold import distinct_users
from shared.graph.state import ItemNode

FIRST_CAPACITY: Final = 1024
FEW: Final = 16  # less than one row in so many is gathered; of more, all rows are gone through
ROW_BYTES: Final = 700  # about, as measured, without the opinions

Narrowed = tuple[set[int] | None, Tensor | None]


def both(rows: Tensor, mask: Tensor | None) -> Tensor:
    """(N,) bool: of these rows what a mask leaves; None: all."""
    return rows if mask is None else rows & mask


class Facts:
    """Rows only grow: a withdrawn item keeps its row and is not available."""

    def __init__(self, device: str = "cpu") -> None:
        self.item_ids: list[str] = []
        self.row_of: dict[str, int] = {}
        self.versions: list[int] = []
        self.last_seen = 0.0
        self._described_at: dict[str, tuple[int, int]] = {}  # item id -> partition, offset in `items`
        self._categories: list[tuple[str, ...]] = []
        self._rows_of_category: dict[str, set[int]] = {}
        self._masks: dict[str, Tensor] = {}  # of large categories that were asked for
        self.revision = 0  # another after every put
        self._described = 0  # rows with any category
        self._opinions: list[opinions.Packed] = []
        self._available = torch.zeros(FIRST_CAPACITY, dtype=torch.bool, device=device)
        self._users = torch.zeros(FIRST_CAPACITY, device=device)
        self._prices = torch.zeros(FIRST_CAPACITY, dtype=torch.float64, device=device)  # NaN: not known

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def row_bytes(self) -> float:
        """What one row more takes of the host's memory, about."""
        return ROW_BYTES + sum(map(opinions.held_bytes, self._opinions)) / max(1, len(self))

    @property
    def available(self) -> Tensor:
        """(N,) bool: may be shown."""
        return self._available[: len(self)]

    @property
    def users(self) -> Tensor:
        """(N,) float32: about how many distinct users met the item."""
        return self._users[: len(self)]

    def costing(self, low: float, high: float) -> Tensor:
        """(N,) bool: the price is known and within the bounds."""
        prices = self._prices[: len(self)]
        return (prices >= low) & (prices <= high)

    def put(self, nodes: Sequence[ItemNode]) -> None:
        """Write each node's row; an id that is new gets the next row."""
        self.revision += 1
        self._reserve(len(self) + len(nodes))
        for node in nodes:
            row = self.row_of.get(node.item_id)
            if row is None:
                row = self._append(node.item_id)
            self._write(row, node)

    def withdraw(self, item_ids: Iterable[str]) -> None:
        """Never show these again, until a newer state says otherwise. Unknown ids are passed over."""
        for item_id in item_ids:
            row = self.row_of.get(item_id)
            if row is not None:
                self._available[row] = False

    def shows(self, item_id: str, version: int) -> bool:
        """Whether the item's row is of that version of its state, or of a later one."""
        row = self.row_of.get(item_id)
        return row is not None and self.versions[row] >= version

    def reflects(self, item_id: str, partition: int, offset: int) -> bool:
        """Whether the item's description is the record at that offset of `items`, or a later one."""
        held = self._described_at.get(item_id)
        return held is not None and held[0] == partition and held[1] >= offset

    def rows_in(self, categories: Iterable[str]) -> set[int]:
        """The rows with at least one of the categories."""
        return set().union(*(self._rows_of_category.get(category, ()) for category in categories))

    def mask_in(self, categories: Iterable[str]) -> Tensor | None:
        """(N,) bool, the caller's own: those rows, where a category has many; None where all have few.

        Masks of large categories are kept: at most FEW times as many as an item has categories.
        """
        named = {category: self._rows_of_category.get(category, set()) for category in categories}
        large = {category for category, rows in named.items() if rows and FEW * len(rows) >= len(self)}
        if not large:
            return None
        mask = torch.zeros_like(self.available)
        for category in large:
            mask |= self._mask(category)
        few = self.rows_in(named.keys() - large)
        return mask.index_fill_(0, torch.tensor(list(few), dtype=torch.int64, device=mask.device), True)

    def narrowed(self, categories: Collection[str], prices: tuple[float, float] | None) -> Narrowed:
        """What filters leave: rows, where the categories have few, and a mask (N,) bool; None: all."""
        mask = self.costing(*prices) if prices else None
        if not categories:
            return None, mask
        members = self.mask_in(categories)
        return (self.rows_in(categories), mask) if members is None else (None, both(members, mask))

    def _mask(self, category: str) -> Tensor:
        if category not in self._masks:
            rows = torch.tensor(list(self._rows_of_category[category]), device=self._available.device)
            self._masks[category] = torch.zeros_like(self._available).index_fill_(0, rows, True)
        return self._masks[category][: len(self)]

    def categories(self, row: int) -> tuple[str, ...]:
        return self._categories[row]

    def tells_apart(self, category: str) -> bool:
        """Whether some item with categories is not of this one; all are of the root of a tree."""
        return len(self._rows_of_category[category]) < self._described

    def opinions(self, row: int) -> opinions.Packed:
        return self._opinions[row]

    def _append(self, item_id: str) -> int:
        row = len(self.item_ids)
        self.item_ids.append(item_id)
        self.row_of[item_id] = row
        self.versions.append(0)
        self._categories.append(())
        self._opinions.append(opinions.NOTHING)
        return row

    def _write(self, row: int, node: ItemNode) -> None:
        self.versions[row] = node.version
        self.last_seen = max(self.last_seen, node.last_seen)
        self._available[row] = node.available
        self._users[row] = distinct_users(node.popularity_total)
        self._prices[row] = math.nan if node.facts is None or node.facts.price is None else node.facts.price
        self._opinions[row] = opinions.pack(node.reviews)
        self._categorise(row, node.facts.categories if node.facts else ())
        if topics.ITEMS in node.positions:
            self._described_at[node.item_id] = node.positions[topics.ITEMS]

    def _categorise(self, row: int, categories: tuple[str, ...]) -> None:
        if categories == self._categories[row]:
            return
        self._described += bool(categories) - bool(self._categories[row])
        for category in self._categories[row]:
            self._rows_of_category[category].discard(row)
        for category in categories:
            self._rows_of_category.setdefault(category, set()).add(row)
        for category in self._masks.keys() & {*self._categories[row], *categories}:
            self._masks[category][row] = category in categories
        self._categories[row] = categories

    def _reserve(self, rows: int) -> None:
        capacity = len(self._available)
        if rows <= capacity:
            return
        more = max(rows, 2 * capacity) - capacity
        self._available = torch.cat([self._available, self._available.new_zeros(more)])
        self._users = torch.cat([self._users, self._users.new_zeros(more)])
        self._prices = torch.cat([self._prices, self._prices.new_zeros(more)])
        self._masks = {category: torch.cat([mask, mask.new_zeros(more)]) for category, mask in self._masks.items()}
