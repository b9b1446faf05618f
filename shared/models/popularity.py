"""Popularity: every user gets the items that most distinct users have met. What any model has to beat.

score(u, i) = log(1 + n_i) + weight * recency_i, with n_i from the item's distinct-user sketch and recency_i from
its buckets (features.recency). weight 0 is plain popularity; weight 1 is popularity with an exponential decay.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from shared.graph.fold import distinct_users
from shared.graph.state import ItemNode, UserState
from shared.models.contract import WEIGHTS_FILE, ItemTable, read_config, write_config
from shared.models.features import recency


@dataclass(frozen=True)
class Config:
    recency_weight: float = 0.0
    half_life_days: float = 365.0


class Popularity:
    """Servable without any weights: a user is a zero vector, an item its bias."""

    kind = "popularity"

    def __init__(self, space: str, config: Config | None = None, device: str = "cpu") -> None:
        self.space = space
        self.config = config or Config()
        self.device = device

    def encode_items(self, items: Sequence[ItemNode]) -> ItemTable:
        users = torch.tensor([distinct_users(item.popularity_total) for item in items], device=self.device)  # (N,)
        half_life = self.config.half_life_days
        ages = torch.tensor([recency(item, half_life) for item in items], device=self.device)  # (N,)
        bias = torch.log1p(users) + self.config.recency_weight * ages
        return ItemTable(
            [item.item_id for item in items], torch.zeros(len(items), 1, device=self.device), bias, {"users": users}
        )

    def encode_users(self, users: Sequence[UserState], table: ItemTable, now: float) -> Tensor:
        return torch.zeros(len(users), 1, device=self.device)

    def save(self, folder: Path) -> None:
        write_config(folder, self.kind, self.space, asdict(self.config))
        save_file({}, folder / WEIGHTS_FILE)  # a bundle has the same files whatever its kind

    @classmethod
    def read(cls, folder: Path, device: str = "cpu") -> "Popularity":
        config: dict[str, Any] = read_config(folder)
        return cls(config["space"], Config(**config["config"]), device)
