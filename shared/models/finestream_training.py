"""Fit finestream: its network, then the neighbours, then what each counts (finestream.py).

The network learns from every case of the log, in windows of event time that each have their own view of the
catalogue. The neighbours are computed. Learnt together they fit worse: what the training cases show of the neighbours
is weaker than what serving will see.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.events import Interaction
from shared.graph.fold import fold_user
from shared.graph.state import ItemNode, UserState
from shared.models import training
from shared.models.dataset import Case, Catalogue, windows
from shared.models.distillation import Distillation, find_neighbours, semantic_users, tail_users
from shared.models.evaluation import servable
from shared.models.features import ItemFeatures, UserFeatures, item_features, offsets, spans, user_features
from shared.models.finestream import Finestream
from shared.models.finestream_choice import Choice, Chooser, choice_of, neighbours_of
from shared.models.finestream_network import Config, Network
from shared.models.fitting import Fitted, Run, Similar
from shared.models.fused_softmax import fits, fused_loss
from shared.models.softmax import FULL_SOFTMAX_ITEMS, sampled_loss, target_share
from shared.models.split import Split

SIMILAR_USERS: Final = 10  # who a tail user learns from


@dataclass(frozen=True)
class Window:
    """C cases and the catalogue as of just before the first of them."""

    items: ItemFeatures
    id_rows: Tensor  # (N,)
    users: UserFeatures  # of all cases; edges in order of case
    first_edge: Tensor  # (C + 1,) edges of case c are [first_edge[c], first_edge[c + 1])
    first_target: Tensor  # (C + 1,)
    targets: Tensor  # (T,) rows of the catalogue
    who: Tensor  # (C,) places in Sequences.users
    lengths: NDArray[np.int64]  # (C,)
    masked: bool  # what a user has met is no candidate

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def share(self) -> Tensor:
        """(N,): which share of all targets each item is."""
        return target_share(self.targets.cpu().numpy(), len(self.id_rows)).to(self.targets.device)

    def take(self, cases: Tensor) -> UserFeatures:
        """Features of some cases (B,)."""
        real = self.users.real[cases]
        width = max(1, int(real.sum(1).max()))
        edges = self.users.edges.take(*spans(self.first_edge, cases))
        return UserFeatures(self.users.history[cases, :width], real[:, :width], edges)

    def asked(self, cases: Tensor) -> tuple[Tensor, Tensor]:
        """Of some cases (B,): which of them asks (Q,), and for which row (Q,)."""
        at, case = spans(self.first_target, cases)
        return case, self.targets[at]


@dataclass(frozen=True)
class Batch:
    """Cases of one window."""

    window: Window
    cases: Tensor  # (B,)

    def __len__(self) -> int:
        return len(self.cases)

    def share(self, rank: int, world: int) -> "Batch":
        return Batch(self.window, self.cases[rank::world])


class Learner:
    """Mean of -log p(target | user, catalogue as of the window), what a user has met left out."""

    network: nn.Module

    def __init__(self, model: Finestream, split: Split, similar: Similar | None) -> None:
        self.model, self.split, self.config = model, split, model.config
        self.windows = prepare(split, model, split.newest(self.config.newest), self.config.windows)
        if not self.windows:
            raise ValueError("no interaction with an item that was known before: nothing to learn from")
        self.held_out = prepare_with(model, split.items, split.held_out, split)
        self.network = model.network
        self.distillation = None
        if self.config.distillation:
            self.distillation = self._distillation(similar)
            self.network = nn.ModuleDict({"model": model.network, "distillation": self.distillation})

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Histories of like length together, so that little is padded; which ones, and in what order, by chance."""
        out = []
        size = max(self.config.batch, -(-sum(map(len, self.windows)) // self.config.steps))
        for window in self.windows:
            order = rng.permutation(len(window))
            order = order[np.argsort(window.lengths[order], kind="stable")]
            for start in range(0, len(order), size):
                cases = torch.from_numpy(order[start : start + size]).to(self.model.device)
                out.append(Batch(window, cases))
        shuffled = (out[at] for at in rng.permutation(len(out)))
        return shuffled if self.distillation is None else self.distillation.epoch(shuffled, self.model.network)

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        u, loss, count = batch_loss(self.model.network, batch)
        if self.distillation is not None:
            loss = loss + self.config.distillation * self.distillation(u, batch.window.who[batch.cases])
        return loss, count

    def validate(self) -> float:
        """Minus the loss on what is held out: it moves more smoothly than any metric of a few hundred cases."""
        total, n = 0.0, 0
        for window in self.held_out:
            for cases in torch.arange(len(window), device=self.model.device).split(self.config.batch):
                _, loss, count = batch_loss(self.model.network, Batch(window, cases))
                total, n = total + float(loss) * count, n + count
        return -total / n if n else math.nan

    def _distillation(self, similar: Similar | None) -> Distillation:
        if similar is None:
            raise ValueError("self-distillation finds similar users by a vector index: the run has none")
        split, config = self.split, self.config
        half_life = config.half_life_days if split.clock else 0.0
        semantic = semantic_users(split.content, split.sequences, half_life)
        found = find_neighbours(similar, semantic, SIMILAR_USERS, tail_users(split.sequences), weighted=True)
        states = [
            fold_user(UserState(user_id), [fact for _, fact in facts])
            for user_id, facts in split.log.users()
            if any(isinstance(fact, Interaction) for _, fact in facts)  # as in split.sequences
        ]
        features = item_features(split.items, config.schema, config.half_life_days, self.model.device)
        rows = self.model.id_rows([item.item_id for item in split.items])

        def encode(teacher: nn.Module, users: Tensor) -> Tensor:
            assert isinstance(teacher, Network)
            table = teacher.items(features, rows)
            chosen = [states[user] for user in users.tolist()]
            found = user_features(chosen, split.row_of, config.schema, config.longest, self.model.device)
            return teacher.users(found, table.vectors, table.extra["fine"])

        return Distillation(self.model.network, encode, 3 * config.d, found)


def fit(split: Split, config: Config, run: Run) -> Fitted:
    """Raises ValueError where there is nothing to learn from, FailedPrecondition where the loss is not finite."""
    known = {name: run.chosen[name] for name in Choice._fields if name in run.chosen}
    config = choice_of(config)._replace(**known).put_into(config)
    training.seed(run.seed)
    model = start(split, config, run.device)
    options = training.Options(
        epochs=config.epochs, patience=config.patience, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )  # fmt: skip
    learnt = training.learn(Learner(model, split, run.similar), options, run, settings=config)
    if not known and split.held_out:
        model.config = Chooser(model, split).choose().put_into(config)
    model.neighbours = neighbours_of(split, model.config).to(run.device)
    scorer = servable(model, model.encode_items(split.items))
    return training.fitted(learnt, scorer, model.network, model, **choice_of(model.config)._asdict())


def start(split: Split, config: Config, device: str) -> Finestream:
    """The model before it has learnt: of its views that of the texts is there."""
    network = Network(config, len(split.items))
    network.fit_content(split.content)
    ids = [node.item_id for node in split.items]
    return Finestream(split.space, config, ids, network, device=device)


def prepare(split: Split, model: Finestream, found: Sequence[Case], count: int) -> list[Window]:
    """Cases in windows; without a clock there is one window, and its catalogue is all that is known."""
    if not split.clock:
        return prepare_with(model, split.items, found, split)
    catalogue, out = Catalogue(split.log), []
    for stretch in windows(found, count):
        catalogue.advance(stretch[0].ts)
        out += prepare_with(model, catalogue.nodes(), stretch, split)
    return out


def prepare_with(model: Finestream, nodes: Sequence[ItemNode], found: Sequence[Case], split: Split) -> list[Window]:
    """One window, or none where no target is known; targets that are not known are left out."""
    config, device = model.config, model.device
    row_of = {node.item_id: row for row, node in enumerate(nodes)}
    asked = [(case, [row_of[target] for target in case.targets if target in row_of]) for case in found]
    asked = [(case, rows) for case, rows in asked if rows]
    if not asked:
        return []
    distilled = split.sequences.users if config.distillation else ()  # who is asked for by place
    place = {user_id: at for at, user_id in enumerate(distilled)}
    users = user_features([case.user for case, _ in asked], row_of, config.schema, config.longest, device)
    per_case = torch.bincount(users.edges.node, minlength=len(asked))
    return [
        Window(
            item_features(nodes, config.schema, config.half_life_days, device),
            model.id_rows(list(row_of)),
            users,
            offsets(per_case),
            offsets(torch.tensor([len(rows) for _, rows in asked], device=device)),
            torch.tensor([row for _, rows in asked for row in rows], device=device),
            torch.tensor([place.get(case.user.user_id, -1) for case, _ in asked], device=device),
            users.real.sum(1).cpu().numpy(),
            not split.repeats,
        )
    ]


def batch_loss(network: Network, batch: Batch) -> tuple[Tensor, Tensor, int]:
    """Users (B, 3d), the mean loss over their targets, how many targets."""
    window, f = batch.window, batch.window.take(batch.cases)
    case, target = window.asked(batch.cases)
    if len(window.id_rows) > FULL_SOFTMAX_ITEMS:
        return _sampled(network, window, f, case, target)
    table = network.items(window.items, window.id_rows)
    u = network.users(f, table.vectors, table.extra["fine"])
    row = torch.arange(len(u), device=u.device)[:, None].expand_as(f.real)
    met = (row[f.real], f.history[f.real]) if window.masked else None
    if not fits(u, table.vectors):
        return u, fused_loss(u, table.vectors, table.bias, case, target, masked=met), len(target)
    logits = u @ table.vectors.T + table.bias
    if met is not None:
        logits = logits.index_put(met, logits.new_tensor(-torch.inf))
    return u, -F.log_softmax(logits.float(), 1)[case, target].mean(), len(target)


def _sampled(
    network: Network, window: Window, f: UserFeatures, case: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, int]:
    """The same for a catalogue too large to encode at every step: only the items that the batch needs are."""
    met, place = torch.unique(torch.cat([f.history.flatten(), f.edges.item.clamp(min=0)]), return_inverse=True)
    table = network.items(window.items.take(met), window.id_rows[met])
    history, item = place[: f.history.numel()].view_as(f.history), place[f.history.numel() :]
    edges = replace(f.edges, item=torch.where(f.edges.item >= 0, item, -1))
    u = network.users(UserFeatures(history, f.real, edges), table.vectors, table.extra["fine"])

    def encode(rows: Tensor) -> tuple[Tensor, Tensor]:
        part = network.items(window.items.take(rows), window.id_rows[rows])
        return part.vectors, part.bias

    return u, sampled_loss(u[case], encode, len(window.id_rows), target, share=window.share, rows=case), len(target)
