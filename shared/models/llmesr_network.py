"""LLM-ESR's network: two views of every item, and what a history is to each (Liu et al., NeurIPS 2024).

  item  e_co = a row of its own, begun at PCA_d of the item's text     collaborative view (section 3.2)
        e_se = W2 (W1 s + b1) + b2, s the text's embedding, frozen      semantic view
  user  co' = attention(se -> co), se' = attention(co -> se)            cross-attention of the views (eq. 4, 5)
        u_co, u_se = one backbone, over each of them                    (eq. 6)
  score [u_co; u_se] . [e_co; e_se]

Every attention is causal, knows its padding, and nothing of a question is in what it is asked of (the authors' code
masks neither). A backbone that looks both ways (BERT4Rec) is asked as at serving, the history with a mask after it,
for every question; the paper's random masks, which ask for the middle of a history, are left out.
Shapes: B users, L history, N items, E text embedding, d width of a view, D of all views, Q questions.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.models.backbones import backbone
from shared.models.sasrec import causal_mask


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

    def place(self, rows: Tensor, content: Tensor) -> Tensor:
        """Rows (N,) of the catalogue and texts (N, E) -> (N, D). Row -1: an item that training has not met; it stands
        where its text does, in both views."""
        parts = []
        if self.config.co_view:
            own = self.co.weight[rows.clamp(min=0)]
            parts.append(torch.where((rows >= 0)[:, None], own, self.by_text(content)))
        if self.config.se_view:
            parts.append(self.adapter(content))
        return torch.cat(parts, 1)

    def by_text(self, content: Tensor) -> Tensor:
        """The collaborative place that texts (N, E) give -> (N, d)."""
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
        self.co.weight[known, :kept] = self.by_text(content)[known, :kept]


def _both_ways(real: Tensor) -> Tensor:
    """(B, L) -> (B, 1, L, L) bool: every row may look at what is real, and at itself."""
    return (real[:, None] | torch.eye(real.shape[1], dtype=torch.bool, device=real.device))[:, None]


def _xavier(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_normal_(parameter)
