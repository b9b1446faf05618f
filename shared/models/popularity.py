"""Popularity: every user gets the items that most distinct users have met. What any model has to beat.

score(u, i) = log(1 + n_i) + weight * recency_i, with n_i from the item's distinct-user sketch and recency_i from
its buckets (features.recency). weight 0 is plain popularity; weight 1 is popularity with an exponential decay.

`fit` counts exactly, for evaluation: distinct users, or events where what was met may be asked again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from shared.graph.fold import distinct_users
from shared.graph.state import ItemNode, UserState
from shared.models import choice
from shared.models.contract import WEIGHTS_FILE, ItemTable, read_config, write_config
from shared.models.evaluation import Scorer
from shared.models.features import DAY, recency
from shared.models.fitting import Fitted, Run
from shared.models.split import Split

FOR_EVER: Final = float("inf")  # a half-life: plain popularity


@dataclass(frozen=True)
class Config:
    recency_weight: float = 0.0
    half_life_days: float = 365.0


@dataclass(frozen=True)
class RecencyConfig:
    """Validation chooses the half-life; the first where there is nothing to choose by."""

    half_life_days: tuple[float, ...] = (365.0, 7.0, 30.0, 90.0, 180.0, 730.0, 3650.0)


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


def fit(split: Split, config: Config | RecencyConfig, run: Run) -> Fitted:
    """Plain popularity of a Config, and of a RecencyConfig popularity with an exponential decay.

    Where times are of no calendar, nothing is recent: all half-lives are for ever.
    """
    started = monotonic()
    chosen: dict[str, float] = {}
    if isinstance(config, Config) or not split.clock:
        half_life = FOR_EVER
    elif run.chosen:
        half_life = run.chosen["half_life_days"]
    else:
        half_life, _ = choice.best(split, config.half_life_days, lambda days: _scorer(split, days))
    if half_life < FOR_EVER:
        chosen["half_life_days"] = half_life
    servable = Config(0.0) if half_life == FOR_EVER else Config(1.0, half_life)
    return Fitted(
        _scorer(split, half_life), chosen, samples=len(split.sequences.items), seconds=monotonic() - started,
        model=Popularity(split.space, servable, run.device),
    )  # fmt: skip


def _scorer(split: Split, half_life_days: float) -> Scorer:
    """Of every event its weight now, or, where what was met is not asked again, of every item's users the first."""
    s = split.sequences
    now = s.times.max(initial=0.0)
    scores = np.zeros(len(split.items))  # (N,) float64
    for users, items, times in s.stretches():
        if not split.repeats:
            _, first = np.unique(np.stack([users, items]), axis=1, return_index=True)  # events are oldest first
            items, times = items[first], times[first]
        weights = np.exp2((times - now) / (half_life_days * DAY)) if half_life_days < FOR_EVER else np.ones(len(times))
        scores += np.bincount(items, weights, len(scores))
    ranks = torch.unique(torch.from_numpy(scores), return_inverse=True)[1].float()  # float32 would tie what is long ago
    return lambda cases: ranks.expand(len(cases), -1)
