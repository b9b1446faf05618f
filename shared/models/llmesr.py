"""LLM-ESR: two views of every item, and users who learn from users alike (Liu et al., NeurIPS 2024).

  loss  ranking + alpha self-distillation                               (section 3.3; see shared.models.distillation)

The network is in llmesr_network.py. The loss is a full softmax over every question of the log; `loss="bce"` is the
paper's: the target against one uniform item. The paper's own self-distillation is ema=0, refresh=1, weighted=False,
tail_only=False. Shapes: B users, L history, N items, D of all views, Q questions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from json import dumps, loads
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shared.graph.fold import distinct_users
from shared.graph.state import ItemNode, UserState
from shared.models import training
from shared.models.batches import Batch, SequenceBatches
from shared.models.contract import WEIGHTS_FILE, ItemTable, read_config, write_config
from shared.models.dataset import Case
from shared.models.distillation import Distillation, find_neighbours, semantic_users, tail_users
from shared.models.evaluation import Scorer
from shared.models.features import contents, history_rows, padded
from shared.models.fitting import Fitted, Run, Similar
from shared.models.llmesr_network import Config, Network
from shared.models.sequence_model import met, unmet
from shared.models.softmax import FULL_SOFTMAX_ITEMS, sampled_loss, softmax_loss, target_share
from shared.models.split import Split

IDS_FILE: Final = "ids.json"


class LLMESR:
    """The network as ranking serves it."""

    kind = "llmesr"

    def __init__(
        self, space: str, config: Config, ids: Sequence[str], network: Network, device: str = "cpu"
    ) -> None:  # fmt: skip
        """`ids`: the items of the network's rows."""
        self.space, self.config, self.ids, self.device = space, config, list(ids), device
        self.network = network.to(device)
        self.row_of = {item_id: row for row, item_id in enumerate(self.ids)}

    @torch.no_grad()
    def encode_items(self, items: Sequence[ItemNode]) -> ItemTable:
        """An item that training has not met stands where its text does, in both views."""
        self.network.eval()
        ids = [item.item_id for item in items]
        rows = torch.tensor([self.row_of.get(i, -1) for i in ids], dtype=torch.int64, device=self.device)
        users = torch.tensor([distinct_users(item.popularity_total) for item in items], dtype=torch.float32)
        bias = torch.zeros(len(ids), device=self.device)
        vectors = self.network.place(rows, contents(items, self._embedding_dim).to(self.device))
        return ItemTable(ids, vectors, bias, {"users": users.to(self.device)})

    @torch.no_grad()
    def encode_users(self, users: Sequence[UserState], table: ItemTable, now: float) -> Tensor:
        """`now` is not read: a history counts the same however old it is."""
        if not users or not len(table):
            return torch.zeros(len(users), self.network.width, device=self.device)
        return self._users(users, table.row_of, table.vectors)

    def scorer(self, split: Split) -> Scorer:
        """Over the catalogue of the split that the model is fitted on, with the weights as they are when asked."""

        @torch.no_grad()
        def scores(cases: Sequence[Case]) -> Tensor:  # (B,) -> (B, N)
            vectors = self.network.items()
            return self._users([case.user for case in cases], split.row_of, vectors) @ vectors.T

        return scores

    def save(self, folder: Path) -> None:
        write_config(folder, self.kind, self.space, {**asdict(self.config), "embedding_dim": self._embedding_dim})
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE)
        (folder / IDS_FILE).write_text(dumps(self.ids))

    @classmethod
    def read(cls, folder: Path, device: str = "cpu") -> "LLMESR":
        stored = read_config(folder)
        dim = stored["config"].pop("embedding_dim")
        config = Config(**stored["config"])
        ids = loads((folder / IDS_FILE).read_text())
        network = Network(config, len(ids), torch.zeros(0, dim))
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return cls(stored["space"], config, ids, network, device)

    @property
    def _embedding_dim(self) -> int:
        return self.network.text.shape[1]

    def _users(self, users: Sequence[UserState], row_of: dict[str, int], vectors: Tensor) -> Tensor:  # -> (B, D)
        self.network.eval()
        history, real = padded([history_rows(user, row_of, self.config.longest) for user in users], self.device)
        return self.network.last(vectors[history].float(), real).float()


class Learner:
    """Every question of the split, once an epoch."""

    network: nn.Module

    def __init__(
        self,
        model: LLMESR,
        split: Split,
        similar: Similar | None,
    ) -> None:
        self.model, self.config, self.split, self.device = model, model.config, split, model.device
        if self.config.loss not in ("softmax", "bce"):
            raise ValueError(f"loss {self.config.loss!r} is neither softmax nor bce")
        self.found = split.sequences
        self._batches = SequenceBatches(self.found, self.config.longest, self.config.batch, self.device)
        if self.config.loss == "bce":
            self._met = met(self.found, len(model.ids)).to(self.device)
        self._share = target_share(self.found.asked_for, len(model.ids)).to(self.device)
        self._validate = training.validator(split, model.scorer(split))
        self.distillation = self._distillation(similar) if self.config.distillation else None
        self.network = model.network
        if self.distillation is not None:  # together, so that the teacher is in every checkpoint
            self.network = nn.ModuleDict({"model": model.network, "distillation": self.distillation})

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        batches = self._batches.epoch(rng)
        return batches if self.distillation is None else self.distillation.epoch(batches, self.model.network)

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        states, loss = self._ranked(batch)
        if self.distillation is not None:
            rows = torch.arange(len(batch.users), device=states.device)
            newest = torch.searchsorted(batch.asked[:, 0].contiguous(), rows, right=True) - 1  # question of each user
            loss = loss + self.config.alpha * self.distillation(states[newest], batch.users)
        return loss, len(batch)

    def validate(self) -> float:
        return self._validate()

    def _ranked(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The states of a batch's questions (Q, D), and what their ranking costs."""
        network = self.model.network
        row, items = batch.asked[:, 0], len(self.model.ids)
        if self.config.loss == "softmax" and items <= FULL_SOFTMAX_ITEMS:
            table = network.items()
            states = network(F.embedding(batch.history, table), batch.real, batch.asked)
            return states, softmax_loss(states, table, None, batch.targets)
        states = network(network.items(batch.history), batch.real, batch.asked)
        if self.config.loss == "softmax":
            loss = sampled_loss(
                states, lambda at: (network.items(at), None), items, batch.targets, share=self._share, rows=row
            )
            return states, loss
        asked_for = torch.stack([batch.targets, unmet(batch.users[row], self._met, items)])  # (2, Q)
        logits = (states * network.items(asked_for)).sum(-1).float()
        truth = torch.tensor([[1.0], [0.0]], device=logits.device).expand_as(logits)
        return states, 2 * F.binary_cross_entropy_with_logits(logits, truth)  # the sum of both means

    def _distillation(self, similar: Similar | None) -> Distillation:
        if similar is None:
            raise ValueError("self-distillation finds similar users by a vector index: the run has none")
        config, split = self.config, self.split
        semantic = semantic_users(split.content, self.found, config.half_life_days if split.clock else 0.0)
        taught = np.ones(len(self.found), np.bool_)
        if config.tail_only:
            taught = tail_users(self.found, config.tail_share)
        found = find_neighbours(similar, semantic, config.neighbours, taught, config.weighted)
        network = self.model.network
        return Distillation(network, self._of_users, network.width, found, config.ema, config.refresh)

    def _of_users(self, teacher: nn.Module, users: Tensor) -> Tensor:
        """What the teacher makes of whole histories (K,) -> (K, D)."""
        assert isinstance(teacher, Network)
        offsets, longest = self.found.offsets, self.config.longest
        ends = [(int(offsets[user]), int(offsets[user + 1])) for user in users.tolist()]
        rows = [self.found.items[max(start, end - longest) : end].tolist() for start, end in ends]
        history, real = padded(rows, self.device)
        return teacher.last(teacher.items(history), real)


def fit(split: Split, config: Config, run: Run) -> Fitted:
    """Raises ValueError for a log without questions, and for self-distillation without `run.similar`."""
    if not len(split.sequences.asked_at):
        raise ValueError("nobody met anything after anything else: nothing to learn from")
    content = split.content if config.reads_text else torch.zeros(0, split.schema.embedding_dim)
    torch.manual_seed(run.seed)
    network = Network(config, len(split.items), content)
    model = LLMESR(split.space, config, [node.item_id for node in split.items], network, run.device)
    options = training.Options(
        epochs=config.epochs,
        patience=config.patience,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    learnt = training.learn(Learner(model, split, run.similar), options, run, settings=config)
    return training.fitted(learnt, model.scorer(split), network, model)
