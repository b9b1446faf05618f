"""What the parts of finestream count, chosen on validation."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.models.dataset import Case
from shared.models.evaluation import rank
from shared.models.finestream import Finestream
from shared.models.finestream_network import Config
from shared.models.neighbours import Neighbours, fit_neighbours, nobody
from shared.models.split import Split, histories

VIEWS: Final = ((64, 1.5), (256, 0.5), (512, 0.5))  # rank and sharpness of the neighbour view
DECAY: Final = (1.0, 0.8, 0.6, 0.4)
NEIGHBOURS: Final = (0.0, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0, 3.0, 4.5)
PERSONAL: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.4, 2.0)
CHOSEN_BY: Final = 4000  # cases at most, of those held out
SURE: Final = 3.0  # standard errors of a difference
AT_ONCE: Final = 256  # cases
SCORES_AT_ONCE: Final = 50_000_000  # what choosing holds in memory, times three


class Choice(NamedTuple):
    """The fields of a Config that validation chooses."""

    rank: int
    sharpness: float
    decay: float
    neighbours: float
    personal: float

    def put_into(self, config: Config) -> Config:
        """The config with this choice."""
        return replace(config, **{**self._asdict(), "rank": int(self.rank)})


def choice_of(config: Config) -> Choice:
    """What a config has of its own."""
    return Choice(*(getattr(config, name) for name in Choice._fields))


def neighbours_of(split: Split, config: Config) -> Neighbours:
    """The neighbour view of everything that the split knows."""
    if not config.neighbour_view:
        return nobody(config.rank, len(split.items), config.schema.embedding_dim)
    return fit_neighbours(split.sequences, split.content, config.rank, config.sharpness, config.sure)


class Chooser:
    """What the views count, by NDCG@20 on what is held out.

    The config's own choice stays unless another is better by more than SURE standard errors: of dozens tried on a few
    hundred cases, the best is the best by chance.
    """

    def __init__(self, model: Finestream, split: Split) -> None:
        self.model, self.split = model, split
        self.cases = list(split.held_out)[-max(1, min(CHOSEN_BY, SCORES_AT_ONCE // max(1, len(split.items)))) :]
        self.place = {id(case): at for at, case in enumerate(self.cases)}
        self.table = model.encode_items(split.items)
        self.network = self._scores()
        self.near = lru_cache(maxsize=4)(self._near)
        self.reached = lru_cache(maxsize=None)(self._reached)

    def choose(self) -> Choice:
        held = choice_of(self.model.config)
        if self.model.config.neighbour_view:
            other = [view for view in VIEWS if view[0] <= len(self.split.items) // 2]  # a rank beyond filters nothing
            views = dict.fromkeys([(held.rank, held.sharpness), *other])
            held = self._better(held, [held._replace(rank=r, sharpness=p, decay=d) for r, p in views for d in DECAY])
            held = self._better(held, [held._replace(neighbours=weight) for weight in NEIGHBOURS])
        held = self._better(held, [held._replace(personal=weight) for weight in PERSONAL])
        if self.model.config.neighbour_view:
            held = self._better(held, [held._replace(neighbours=weight) for weight in NEIGHBOURS])
        return held

    def _better(self, held: Choice, tried: Sequence[Choice]) -> Choice:
        best = max(tried, key=lambda choice: float(self.reached(choice).mean()))
        gain = self.reached(best) - self.reached(held)
        return best if gain.mean() > SURE * gain.std() / len(gain) ** 0.5 else held

    def _reached(self, choice: Choice) -> NDArray[np.float64]:  # (T,): of every target
        near = self.near(choice.rank, choice.sharpness, choice.decay) if choice.neighbours else torch.zeros(1, 1)

        def scorer(batch: Sequence[Case]) -> Tensor:
            at = [self.place[id(case)] for case in batch]
            told = choice.neighbours * near[at] if choice.neighbours else 0.0
            return choice.personal * self.network[at] + told + self.table.bias

        return rank(scorer, self.cases, self.split.row_of, repeats=self.split.repeats, lists=False).figures["ndcg@20"]

    def _near(self, rank_: int, sharpness: float, decay: float) -> Tensor:  # (C, N)
        view = self._view(rank_, sharpness).to(self.model.device)
        near = view.items(
            self.model.id_rows(self.table.item_ids), self.split.content.to(self.model.device), self.table.extra["users"]
        )
        parts = []
        for start in range(0, len(self.cases), AT_ONCE):
            cases = self.cases[start : start + AT_ONCE]
            history, real = histories(cases, self.split.row_of, self.model.config.longest, self.model.device)
            parts.append(view.users(near[history], real, decay) @ near.T)
        return torch.cat(parts)

    @lru_cache(maxsize=1)  # noqa: B019  # the chooser is gone once it has chosen
    def _view(self, rank_: int, sharpness: float) -> Neighbours:
        return neighbours_of(self.split, replace(self.model.config, rank=rank_, sharpness=sharpness))

    def _scores(self) -> Tensor:  # (C, N): of the network, counting 1
        whole = copy(self.model)
        whole.config = replace(self.model.config, personal=1.0)
        states = [case.user for case in self.cases]
        parts = [states[at : at + AT_ONCE] for at in range(0, len(states), AT_ONCE)]
        u, _ = torch.cat([whole.encode_users(part, self.table, 0.0) for part in parts]).split(whole.widths, 1)
        v, _ = self.table.vectors.split(whole.widths, 1)
        scores: Tensor = u @ v.T
        return scores
