"""LLM-ESR: two views of every item, and users who learn from users alike (Liu et al., NeurIPS 2024).

  item  e_co = a row of its own, begun at PCA_d of the item's text     collaborative view (section 3.2)
        e_se = W2 (W1 s + b1) + b2, s the text's embedding, frozen      semantic view
  user  co' = attention(se -> co), se' = attention(co -> se)            cross-attention of the views (eq. 4, 5)
        u_co, u_se = one backbone, over each of them                    (eq. 6)
  score [u_co; u_se] . [e_co; e_se]
  loss  ranking + alpha self-distillation                               (section 3.3; see shared.models.distillation)

Every attention is causal, knows its padding, and nothing of a question is in what it is asked of (the authors' code
masks neither). The loss is a full softmax over every question of the log; `loss="bce"` is the paper's: the target
against one uniform item. A backbone that looks both ways (BERT4Rec) is asked as at serving, the history with a mask
after it, for every question; the paper's random masks, which ask for the middle of a history, are left out.
The paper's own self-distillation is ema=0, refresh=1, weighted=False, tail_only=False.
Shapes: B users, L history, N items, E text embedding, d width of a view, D of all views, Q questions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
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
from shared.models.backbones import backbone
from shared.models.batches import Batch, SequenceBatches
from shared.models.contract import WEIGHTS_FILE, ItemTable, read_config, write_config
from shared.models.dataset import Case
from shared.models.distillation import Distillation, find_neighbours, semantic_users, tail_users
from shared.models.evaluation import Scorer
from shared.models.features import contents, history_rows, padded
from shared.models.fitting import Fitted, Run, Similar
from shared.models.sasrec import causal_mask
from shared.models.sequence_model import met, unmet
from shared.models.softmax import FULL_SOFTMAX_ITEMS, sampled_loss, softmax_loss, target_share
from shared.models.split import Split

IDS_FILE: Final = "ids.json"


@dataclass(frozen=True)
class Config:
    backbone: str = "sasrec"
    d: int = 64  # of a view
    layers: int = 2
    heads: int = 1
    cross_heads: int = 2
    dropout: float = 0.3
    longest: int = 50  # of a history
    epochs: int = 100
    patience: int = 5
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    loss: str = "softmax"  # or "bce"
    # what the paper takes away, one at a time (its section 4.4)
    co_view: bool = True
    se_view: bool = True
    cross_attention: bool = True
    shared_backbone: bool = True
    adapter_layers: int = 2  # or 1
    pca_start: bool = True
    distillation: bool = True
    # self-distillation
    alpha: float = 0.1
    neighbours: int = 10
    ema: float = 0.99  # 0: the teacher is the weights themselves
    refresh: int = 0  # steps until the teacher's vectors are made anew; 0: once an epoch, 1: always new
    weighted: bool = True  # neighbours count by similarity
    tail_only: bool = True  # only users with short histories learn from others
    tail_share: float = 0.8  # of the users
    half_life_days: float = 0.0  # of an event in who is similar to whom; 0: all events count alike

    @property
    def views(self) -> tuple[str, ...]:
        """Raises ValueError where there is none."""
        found = tuple(name for name, on in (("co", self.co_view), ("se", self.se_view)) if on)
        if not found:
            raise ValueError("a model without any view of its items")
        return found

    @property
    def reads_text(self) -> bool:
        """Whether the fit asks for the items' texts."""
        return self.se_view or (self.co_view and self.pca_start) or self.distillation


class CrossAttention(nn.Module):
    """What one view makes of the other: queries of the one, keys and values of the other, no residual (eq. 4)."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.out = nn.Linear(d, d)
        _xavier(self)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:  # (B, L, d), (B, L, d), (B, 1, L, L)
        b, length, d = x.shape
        q, k, v = (
            f(z).view(b, length, self.heads, -1).transpose(1, 2) for f, z in ((self.q, x), (self.k, y), (self.v, y))
        )  # (B, H, L, d/H)
        o = F.scaled_dot_product_attention(q, k, v, mask)
        return self.out(o.transpose(1, 2).reshape(b, length, d))  # type: ignore[no-any-return]


class Network(nn.Module):
    """Rows of the catalogue to vectors, histories of vectors to users."""

    text: Tensor  # (N, E), frozen; not saved: serving reads the items' states
    mean: Tensor  # (E,)
    components: Tensor  # (d, E)

    def __init__(self, config: Config, items: int, content: Tensor) -> None:
        """`content` (N, E); (0, E) where only saved weights are to be loaded."""
        super().__init__()
        d, e, views = config.d, content.shape[1], config.views
        self.config, self.views = config, views
        self.register_buffer("text", content if config.se_view else content[:0], persistent=False)
        if config.co_view:
            self.co = nn.Embedding(items, d)
            nn.init.xavier_normal_(self.co.weight)
            self.register_buffer("mean", torch.zeros(e))
            self.register_buffer("components", torch.zeros(d, e))
            if config.pca_start and len(content):
                self._start_at(content)
        if config.se_view:
            sizes = {1: [e, d], 2: [e, max(e // 2, d), d]}[config.adapter_layers]
            self.adapter = nn.Sequential(*(nn.Linear(n, m) for n, m in pairwise(sizes)))
            _xavier(self.adapter)
        encoders = 1 if config.shared_backbone else len(views)
        self.encoders = nn.ModuleList(
            backbone(config.backbone, d, config.layers, config.heads, config.dropout, config.longest + 1)
            for _ in range(encoders)
        )
        self.causal = bool(self.encoders[0].causal)
        if not self.causal:
            self.mask = nn.Parameter(torch.randn(len(views) * d) * 0.1)  # stands for what is asked
        self.crossed = config.cross_attention and len(views) == 2
        if self.crossed:
            # An encoder scales its input and adds positions. The views meet before that, with positions too.
            self.scale = float(getattr(self.encoders[0], "scale", 1.0))
            self.position = nn.Embedding(config.longest + 1, d) if config.backbone != "gru4rec" else None
            if self.position is not None:
                nn.init.normal_(self.position.weight, std=0.02)
            self.drop = nn.Dropout(config.dropout)
            self.to_co, self.to_se = (CrossAttention(d, config.cross_heads) for _ in views)

    @property
    def width(self) -> int:
        return len(self.views) * self.config.d

    def items(self, rows: Tensor | None = None) -> Tensor:
        """(...) rows of the catalogue, or all of them -> (..., D)."""
        parts = []
        if self.config.co_view:
            parts.append(self.co.weight if rows is None else self.co(rows))
        if self.config.se_view:
            parts.append(self.adapter(self.text if rows is None else self.text[rows]))
        return torch.cat(parts, -1)

    def forward(self, x: Tensor, real: Tensor, at: Tensor) -> Tensor:
        """Histories (B, L, D) oldest first, real (B, L), questions (Q, 2) by row and column -> (Q, D)."""
        if self.causal:
            return self.states(x, real)[at[:, 0], at[:, 1]]
        distinct, which = torch.unique(at, dim=0, return_inverse=True)  # a history up to a question, and a mask
        row, end = distinct[:, 0], distinct[:, 1:] + 1  # (P,), (P, 1)
        column = torch.arange(x.shape[1] + 1, device=x.device)
        asked = column == end  # (P, L + 1)
        x = torch.where(asked[:, :, None], self.mask.to(x.dtype), F.pad(x, (0, 0, 0, 1))[row])
        real = F.pad(real, (0, 1))[row] & (column < end) | asked
        return self.states(x, real)[asked][which]

    def states(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, L, D), (B, L) -> (B, L, D)."""
        views = x.split(self.config.d, -1)  # 2 x (B, L, d)
        if self.crossed:
            views = self._cross(views[0], views[1], real)
        if len(self.encoders) == len(views):
            return torch.cat([encoder(view, real) for encoder, view in zip(self.encoders, views, strict=True)], -1)
        both = self.encoders[0](torch.cat(views), real.repeat(len(views), 1))
        return torch.cat(both.chunk(len(views)), -1)

    def last(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, L, D), (B, L) -> (B, D): as of the whole history; zero where there is none."""
        end = (real.sum(1) - 1).clamp(min=0)
        at = torch.stack([torch.arange(len(x), device=x.device), end], 1)
        return self(x, real, at) * real.any(1, keepdim=True)  # type: ignore[no-any-return]

    def new(self, content: Tensor) -> Tensor:
        """The collaborative place of items (N, E) that training has not met, by their text -> (N, d)."""
        return ((content - self.mean) @ self.components.T) * (content != 0).any(1, keepdim=True)

    def _cross(self, co: Tensor, se: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        mask = causal_mask(real) if self.causal else _both_ways(real)
        place = 0.0 if self.position is None else self.position.weight[: co.shape[1]]
        co, se = self.drop(self.scale * co + place), self.drop(self.scale * se + place)
        return self.to_co(se, co, mask) / self.scale, self.to_se(co, se, mask) / self.scale

    @torch.no_grad()
    def _start_at(self, content: Tensor) -> None:
        """Items with a text begin at its principal components; dimensions beyond these, and other items, by chance."""
        known = (content != 0).any(1)
        if int(known.sum()) < 2:
            return
        self.mean.copy_(content[known].mean(0))
        _, _, axes = torch.linalg.svd(content[known] - self.mean, full_matrices=False)
        kept = min(len(axes), self.config.d)
        self.components[:kept] = axes[:kept]
        self.co.weight[known, :kept] = self.new(content)[known, :kept]


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
        parts = []
        content = self._content(items)
        if self.config.co_view:
            rows = torch.tensor([self.row_of.get(i, -1) for i in ids], dtype=torch.int64, device=self.device)
            own = self.network.co.weight[rows.clamp(min=0)]
            parts.append(torch.where((rows >= 0)[:, None], own, self.network.new(content)))
        if self.config.se_view:
            parts.append(self.network.adapter(content))
        users = torch.tensor([distinct_users(item.popularity_total) for item in items], dtype=torch.float32)
        bias = torch.zeros(len(ids), device=self.device)
        return ItemTable(ids, torch.cat(parts, 1), bias, {"users": users.to(self.device)})

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

    def _content(self, items: Sequence[ItemNode]) -> Tensor:  # -> (N, E)
        return contents(items, self._embedding_dim).to(self.device)

    def _users(self, users: Sequence[UserState], row_of: dict[str, int], vectors: Tensor) -> Tensor:  # -> (B, D)
        self.network.eval()
        history, real = padded([history_rows(user, row_of, self.config.longest) for user in users], self.device)
        return self.network.last(vectors[history].float(), real).float()


class Learner:
    """Every question of the split, once an epoch."""

    network: nn.Module

    def __init__(self, model: LLMESR, split: Split, similar: Similar | None) -> None:
        self.model, self.config, self.split, self.device = model, model.config, split, model.device
        if self.config.loss not in ("softmax", "bce"):
            raise ValueError(f"loss {self.config.loss!r} is neither softmax nor bce")
        self.found = split.sequences
        self._batches = SequenceBatches(self.found, self.config.longest, self.config.batch, self.device)
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


def _both_ways(real: Tensor) -> Tensor:
    """(B, L) -> (B, 1, L, L) bool: every row may look at what is real, and at itself."""
    return (real[:, None] | torch.eye(real.shape[1], dtype=torch.bool, device=real.device))[:, None]


def _xavier(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_normal_(parameter)
