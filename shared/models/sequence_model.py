"""What models of item ids share: an item table, an encoder of histories, score = state . item + bias, fit, serving.

A model knows the items that its training met, and no others. An item that it has not met has no vector to be lucky
with: its row is zero, its bias FLOOR, so it ranks below every item that the model knows, tied with all others of
its kind; and a history is read without it. A user without any known item is a zero vector: the bias alone ranks.

Shapes: B users, L history, N items of the table, d width, Q questions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from itertools import islice
from json import dumps, loads
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

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
from shared.models.evaluation import Scorer
from shared.models.features import padded
from shared.models.fitting import Fitted, Run
from shared.models.sequences import Sequences
from shared.models.softmax import softmax_loss, target_share
from shared.models.split import Split

FLOOR: Final = -1e4
STD: Final = 0.02  # of an item's vector at the start
TRIES: Final = 8  # draws for one negative that the user has not met
IDS_FILE: Final = "ids.json"


@dataclass(frozen=True)
class Config:
    d: int = 64
    layers: int = 1
    heads: int = 1
    dropout: float = 0.5
    longest: int = 50  # of a history
    epochs: int = 100
    patience: int = 8
    batch: int = 32  # rows: users, about
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    loss: Literal["softmax", "bce"] = "softmax"  # over all items; "bce": the target and one uniform negative
    bias: bool = True  # a number for each item beside its vector; False: as most of the papers
    prior: bool = True  # the bias starts at the log of the item's popularity, in place of 0


class Prefixes(NamedTuple):
    history: Tensor  # (P, L)
    real: Tensor  # (P, L)


class SequenceModel(nn.Module):
    """Items in, states out. `encoder` sees (B, L, d) and gives (B, L, d), causally."""

    def __init__(self, encoder: nn.Module, items: int, config: Config) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(items, config.d)
        nn.init.normal_(self.items.weight, std=STD)
        self.bias = nn.Parameter(torch.zeros(items)) if config.bias else None
        self.encoder = encoder

    def forward(self, history: Tensor, real: Tensor, at: Tensor) -> Tensor:
        """(B, L) rows oldest first, (B, L), (Q, 2) row and column -> (Q, d): the state after each of these."""
        states: Tensor = self.encoder(self.items(history), real)
        return states[at[:, 0], at[:, 1]]


class SequenceLearner:
    """Every question of the split, once an epoch."""

    def __init__(self, model: "Served", split: Split) -> None:
        self.model, self.network, self.config, self.device = model, model.network, model.config, model.device
        self.repeats = split.repeats
        self.sequences = model.sequences(split)
        self._validate = training.validator(split, model.scorer(split)) if split.held_out else None
        items = len(model.ids)
        if self.config.loss == "bce":
            self._met = met(self.sequences, items).to(self.device)
        self._share = target_share(self.sequences.asked_for, items).to(self.device)  # read beyond 100k items alone

    def batches(self, rng: np.random.Generator) -> Iterator[Any]:
        return SequenceBatches(self.sequences, self.config.longest, self.config.batch, self.device).epoch(rng)

    def loss(self, batch: Any) -> tuple[Tensor, int]:
        assert isinstance(batch, Batch)
        states = self.network(batch.history, batch.real, batch.asked)  # (Q, d)
        return self.loss_of(states, batch.targets, batch.asked[:, 0], batch.users), len(batch)

    def loss_of(self, states: Tensor, targets: Tensor, row: Tensor, users: Tensor) -> Tensor:
        """Of states (Q, d) that are to find targets (Q,); `row` (Q,) of the batch, which is of user `users[row]`."""
        table, bias = self.network.items.weight, self.network.bias
        if self.config.loss == "softmax":
            return softmax_loss(states, table, bias, targets, share=self._share, rows=row)
        asked = torch.stack([targets, unmet(users[row], self._met, len(table))])  # (2, Q): one that was met, one not
        logits = (states * table[asked]).sum(-1)
        if bias is not None:
            logits = logits + bias[asked]
        truth = torch.tensor([[1.0], [0.0]], device=logits.device).expand_as(logits)
        return 2 * F.binary_cross_entropy_with_logits(logits.float(), truth)  # twice the mean: the sum of both means

    def validate(self) -> float:
        assert self._validate is not None
        return self._validate()


class Served:
    """A sequence model as ranking serves it, and as evaluation asks it."""

    def __init__(
        self, kind: str, space: str, ids: Sequence[str], config: Config, network: SequenceModel, device: str = "cpu"
    ) -> None:
        """`ids`: the items that training met, by their row in the network."""
        self.kind, self.space, self.config, self.device = kind, space, config, device
        self.network = network.to(device)
        self.ids = list(ids)
        self.row_of = {item_id: row for row, item_id in enumerate(self.ids)}

    @torch.no_grad()
    def encode_items(self, items: Sequence[ItemNode]) -> ItemTable:
        ids = [item.item_id for item in items]
        vectors, bias = self._table(self._rows(ids))
        users = torch.tensor([distinct_users(item.popularity_total) for item in items], device=self.device)
        return ItemTable(ids, vectors, bias, {"users": users})

    @torch.no_grad()
    def encode_users(self, users: Sequence[UserState], table: ItemTable, now: float) -> Tensor:
        """`now` is not read: a history counts the same however old it is."""
        return self._states(users, lambda item_id: item_id in table.row_of)

    def scorer(self, split: Split) -> Scorer:
        """Over the catalogue of the split, with the weights as they are when it is asked."""
        rows = self._rows([node.item_id for node in split.items])

        @torch.no_grad()
        def scores(cases: Sequence[Case]) -> Tensor:  # (B,) -> (B, N)
            vectors, bias = self._table(rows)
            return self._states([case.user for case in cases], lambda _: True) @ vectors.T + bias

        return scores

    def sequences(self, split: Split) -> Sequences:
        """The log of the split in rows of the network."""
        rows = self._rows([node.item_id for node in split.items]).cpu().numpy()
        found = split.sequences
        return replace(found, items=rows[found.items], asked_for=rows[found.asked_for])

    def save(self, folder: Path) -> None:
        write_config(folder, self.kind, self.space, asdict(self.config))
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE)
        (folder / IDS_FILE).write_text(dumps(self.ids))

    @classmethod
    def read(cls, folder: Path, device: str = "cpu") -> "Served":
        stored = read_config(folder)
        module = import_module(f"shared.models.{stored['kind']}")
        config = module.Config(**stored["config"])
        ids = loads((folder / IDS_FILE).read_text())
        network = cast(SequenceModel, module.network(config, len(ids)))
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return cls(stored["kind"], stored["space"], ids, config, network, device)

    def _rows(self, item_ids: Sequence[str]) -> Tensor:  # (N,), -1 for an item that is not known
        return torch.tensor([self.row_of.get(i, -1) for i in item_ids], dtype=torch.int64, device=self.device)

    def _table(self, rows: Tensor) -> tuple[Tensor, Tensor]:  # (N,) -> (N, d), (N,)
        known = rows >= 0
        at = rows.clamp(min=0)
        bias = torch.zeros(len(self.ids), device=self.device) if self.network.bias is None else self.network.bias
        return self.network.items.weight[at] * known[:, None], torch.where(known, bias[at], FLOOR)

    def _states(self, users: Sequence[UserState], kept: Callable[[str], bool]) -> Tensor:  # (B,) -> (B, d)
        self.network.eval()
        met = ((slot.item_id for slot in user.interactions if slot.item_id in self.row_of) for user in users)
        rows = [[self.row_of[i] for i in islice(filter(kept, of_user), self.config.longest)][::-1] for of_user in met]
        if not any(rows):
            return torch.zeros(len(users), self.config.d, device=self.device)
        history, real = padded(rows, self.device)
        last = (real.sum(1) - 1).clamp(min=0)
        at = torch.stack([torch.arange(len(rows), device=self.device), last], 1)
        return self.network(history, real, at).float() * real.any(1, keepdim=True)  # type: ignore[no-any-return]


def fit(
    kind: str,
    network: Callable[[Any, int], SequenceModel],
    split: Split,
    config: Config,
    run: Run,
    learner: type[SequenceLearner] = SequenceLearner,
) -> Fitted:
    """`network(config, items)` learnt on the split. Raises ValueError for a log without interactions."""
    ids = [node.item_id for node, count in zip(split.items, split.counts.tolist(), strict=True) if count]
    if not ids:
        raise ValueError("no interaction: nothing to learn from")
    training.seed(run.seed)
    model = Served(kind, split.space, ids, config, network(config, len(ids)), run.device)
    if config.prior and model.network.bias is not None:
        met_by = torch.from_numpy(split.counts[split.counts > 0]).float().log()
        model.network.bias.data.copy_(met_by - met_by.mean())
    options = training.Options(
        epochs=config.epochs,
        patience=config.patience,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    learnt = training.learn(learner(model, split), options, run, settings=(kind, config))
    return training.fitted(learnt, model.scorer(split), model.network, model)


def prefixes(history: Tensor, real: Tensor, at: Tensor) -> tuple[Prefixes, Tensor]:
    """What each question may see: P distinct prefixes of the rows, and which of them each question (Q, 2) sees."""
    distinct, which = torch.unique(at, dim=0, return_inverse=True)
    row, column = distinct.unbind(1)
    width = int(column.max()) + 1 if len(column) else 1
    seen = torch.arange(width, device=at.device) <= column[:, None]
    return Prefixes(history[row, :width] * seen, real[row, :width] & seen), which


def met(sequences: Sequences, items: int) -> Tensor:
    """(M,) ascending: user * items + item of everything that anyone met."""
    users = np.repeat(np.arange(len(sequences)), np.diff(sequences.offsets))
    return torch.from_numpy(np.unique(users * items + sequences.items))


def unmet(users: Tensor, met: Tensor, items: int) -> Tensor:
    """(Q,) -> (Q,): for each a uniform item that the user never met; of who has met nearly all, any item."""
    drawn = torch.randint(items, (TRIES, len(users)), device=users.device)
    keys = users * items + drawn
    seen = met[torch.searchsorted(met, keys).clamp(max=len(met) - 1)] == keys
    return drawn[(~seen).int().argmax(0), torch.arange(len(users), device=users.device)]
