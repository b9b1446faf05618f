"""finestream's network: LLM-ESR's two views and FineRec's opinions in one causal sequence model.

  item  e_co = PCA(s) + g ID, g = n / (n + kappa)      collaborative; a new item has g = 0 and still has a place
        e_se = adapter(s)                              semantic (LLM-ESR, Liu et al., NeurIPS 2024, section 3.2)
        x_hat = h_I([x^a + conv_a(opinions)]_a)        fine-grained (FineRec, Zhang et al., SIGIR 2024, section 4)
  user  the same three, from the newest interactions and the user's own opinions
  score u . v + b, b = w_0 log(1 + n) + w_1 recency

What departs from the papers: attention is causal and knows its padding everywhere, FineRec's weights are a softmax
(sums saturate with the degree), polarity joins the opinion vector, and the item side never reads a live user
vector, so that its rows do not depend on the order of arrival. Shapes: B users, N items, L history, M opinions,
E text embedding, c opinion vector, A attributes, d width.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.models.contract import ItemTable
from shared.models.features import Edges, ItemFeatures, Schema, UserFeatures
from shared.models.softmax import segment_softmax


@dataclass(frozen=True)
class Config:
    schema: Schema
    d: int = 32
    heads: int = 2
    layers: int = 1
    dropout: float = 0.3
    longest: int = 50  # of a history
    kappa: float = 5.0  # an ID counts for half once so many users have met the item
    half_life_days: float = 365.0  # of the recency prior
    sure: float = 2.0  # an item's own neighbours count for half, its text's for the rest, once so many users met it
    # what counts how much, where validation does not choose otherwise:
    rank: int = 64  # of the neighbour view
    sharpness: float = 1.5  # of its directions
    personal: float = 1.0  # what u . v counts beside the prior
    decay: float = 1.0  # of the neighbour view, an interaction
    neighbours: float = 0.7  # what the neighbour view counts; its scores have a deviation of about 1
    # ablations: what a model goes without
    co_view: bool = True
    se_view: bool = True
    fine_view: bool = True
    opinions: bool = True  # False: the fine view sees the items' texts alone
    cross_attention: bool = True
    ids: bool = True  # False: the co view is the text's principal components alone
    neighbour_view: bool = True
    prior: bool = True
    # training, see finestream_training.py
    epochs: int = 15
    patience: int = 3
    batch: int = 256  # cases
    steps: int = 250  # of an epoch at most: beyond, batches grow
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    windows: int = 8  # stretches of event time, each with its own view of the items
    newest: int = 200_000  # interactions that the network learns from, about
    distillation: float = 0.0  # what it counts for tail users to be like similar users; see distillation.py


class Attention(nn.Module):
    """Multi-head attention from one sequence to another (or itself), masked; without a mask causal."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(d, d, bias=False)
        self.k = nn.Linear(d, d, bias=False)  # a key's bias would cancel in the softmax
        self.v = nn.Linear(d, d)
        self.out = nn.Linear(d, d)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:  # (B, K, d), (B, L, d), (B, 1, K, L)
        b, _, d = x.shape
        q, k, v = (
            f(z).view(b, -1, self.heads, d // self.heads).transpose(1, 2)
            for f, z in ((self.q, x), (self.k, y), (self.v, y))
        )  # (B, H, K or L, d/H)
        o = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        return self.out(o.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer layer (SASRec, Kang and McAuley, ICDM 2018, section III-B, with today's norm)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.d
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = Attention(d, config.heads)
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, L, d) -> (B, L, d)
        h = self.norm1(x)
        return self._fed(x + self.drop(self.attention(h, h, mask)))

    def at(self, x: Tensor, place: Tensor) -> Tensor:
        """forward's result at one place (B,) of each sequence: (B, L, d) -> (B, d)."""
        rows, h = torch.arange(len(x), device=x.device), self.norm1(x)
        seen = torch.arange(x.shape[1], device=x.device) <= place[:, None]  # (B, L)
        met = self.attention(h[rows, place][:, None], h, seen[:, None, None])  # (B, 1, d)
        return self._fed(x[rows, place] + met[:, 0])

    def _fed(self, x: Tensor) -> Tensor:
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))  # type: ignore[no-any-return]


class Sequences(nn.Module):
    """Both views attend to each other, then pass through one shared causal backbone (LLM-ESR, eq. 4 to 6)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.d
        self.position = nn.Parameter(torch.randn(config.longest, d) * 0.02)  # row 0: the newest
        self.crossed = config.cross_attention
        if self.crossed:
            self.to_co = Attention(d, config.heads)
            self.to_se = Attention(d, config.heads)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(d)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, co: Tensor, se: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d) twice, real (B, L) -> the same shapes; position t has seen positions up to t, no padding."""
        mask = _causal(real)
        both = self._met(co, se, real, mask)
        for block in self.blocks:
            both = block(both, mask.repeat(2, 1, 1, 1))
        co, se = self.norm(both).chunk(2)
        return co, se

    def last(self, co: Tensor, se: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """forward's results at the last real position, (B, d) twice: of the last layer nothing else is computed.

        No mask: padding comes after a history, so what is causal never sees it.
        """
        both = self._met(co, se, real, None)
        for block in self.blocks[:-1]:
            both = block(both, None)
        newest = (real.sum(1) - 1).clamp(min=0).repeat(2)  # (2B,)
        co, se = self.norm(cast(Block, self.blocks[-1]).at(both, newest)).chunk(2)
        return co, se

    def _met(self, co: Tensor, se: Tensor, real: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, d) twice -> (2B, L, d): placed in time, and having attended to each other."""
        length = co.shape[1]
        ago = (real.sum(1, keepdim=True) - 1 - torch.arange(length, device=co.device)).clamp(min=0)  # (B, L)
        place = self.position[ago]
        co, se = self.drop(co + place), self.drop(se + place)
        if self.crossed:
            co, se = co + self.to_co(se, co, mask), se + self.to_se(co, se, mask)
        return torch.cat([co, se])


class OpinionConvolution(nn.Module):
    """FineRec's diversity-aware convolution (eq. 3 to 5), degree-normalised: an opinion weighs what it answers.

    q = f_q(x), k = f_k(t_a + y), v = f_v(z), out = sum over a node's opinions on a of softmax(q.k / sqrt(c)) v.
    Each attribute has its own f_q, f_k and f_v.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        a, c = len(schema.attributes), schema.opinion_dim
        self.attribute = nn.Embedding(a, c)  # t_a
        self.polarity = nn.Embedding(3, c)
        self.maps = nn.Parameter(torch.empty(3, a, c, c).uniform_(-(c**-0.5), c**-0.5))  # f_q, f_k, f_v
        self.shifts = nn.Parameter(torch.zeros(3, a, c))
        for table in (self.attribute, self.polarity):
            nn.init.normal_(table.weight, std=0.3)

    def forward(self, x: Tensor, edges: Edges, reviewed: Tensor | None) -> Tensor:
        """x (N, A, c), reviewed (M, c): the item's own place on the attribute, for users -> (N, A, c)."""
        return self.summed(x, *self.weighed(x, edges, reviewed))

    def summed(self, x: Tensor, at: Tensor, weight: Tensor, v: Tensor) -> Tensor:
        """What `weighed` gives, taken together: (N, A, c)."""
        flat = torch.zeros(x.shape[0] * x.shape[1], x.shape[2], device=x.device, dtype=v.dtype)
        return flat.index_add(0, at, weight[:, None] * v).view(x.shape)

    def weighed(self, x: Tensor, edges: Edges, reviewed: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Each opinion's place (M,) in N A, its weight (M,) there, and its v (M, c)."""
        n, a, c = x.shape
        at = edges.node * a + edges.attribute  # (M,)
        own = x.reshape(-1, c)[at]  # (M, c): the node's own place on the opinion's attribute
        opinion = edges.opinion + self.polarity(edges.polarity)
        k_in, v_in = (opinion, own + opinion) if reviewed is None else (reviewed, reviewed + opinion)
        k_in = self.attribute(edges.attribute) + k_in
        q, k, v = (self._map(which, z, edges.attribute) for which, z in enumerate((own, k_in, v_in)))
        return at, segment_softmax((q * k).sum(1) / c**0.5, at, n * a), v

    def _map(self, which: int, z: Tensor, attribute: Tensor) -> Tensor:
        """(M, c) -> (M, c), each row by its attribute's map."""
        y = torch.bmm(z[:, None], self.maps[which][attribute])[:, 0]
        return torch.tanh(y + self.shifts[which][attribute])


class Network(nn.Module):
    """The weights, from features to vectors."""

    mean: Tensor  # (E,) of the items' contents
    components: Tensor  # (d, E): their principal ones, PCA_d
    used: Tensor  # (3,) 1 for a view that counts

    def __init__(self, config: Config, ids: int) -> None:
        super().__init__()
        e, c, a, d = config.schema.embedding_dim, config.schema.opinion_dim, len(config.schema.attributes), config.d
        self.config = config
        self.register_buffer("mean", torch.zeros(e))
        self.register_buffer("components", torch.zeros(d, e))
        used = [config.co_view, config.se_view, config.fine_view]
        self.register_buffer("used", torch.tensor(used, dtype=torch.float32), persistent=False)  # the views
        self.ids = nn.Embedding(ids + 1, d, padding_idx=0)  # row 0: an item that training has not met
        nn.init.normal_(self.ids.weight, std=0.05)
        self.adapter = nn.Sequential(nn.Linear(e, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.fine = nn.Linear(e, a * c)  # W_a
        self.item_opinions = OpinionConvolution(config.schema)
        self.item_head = nn.Sequential(nn.Linear(a * c, d), nn.GELU(), nn.Linear(d, d))  # h_I
        self.sequences = Sequences(config)
        self.user_opinions = OpinionConvolution(config.schema)
        self.user_head = nn.Sequential(nn.Linear(a * c, d), nn.GELU(), nn.Linear(d, d))  # h_U
        self.fusion = nn.Linear(d, d)
        self.gains = nn.Parameter(torch.full((3,), 0.1))  # of co, se, fine: a start close to the prior
        self.prior = nn.Parameter(torch.tensor([1.0, 0.5]))  # of log popularity and of recency
        self.drop = nn.Dropout(config.dropout)

    def items(self, f: ItemFeatures, rows: Tensor) -> ItemTable:
        """Features of N items and their ID rows (N,) -> a table without ids: vectors (N, 3d), bias (N,)."""
        a, c = len(self.config.schema.attributes), self.config.schema.opinion_dim
        config = self.config
        known = (f.content != 0).any(1, keepdim=True)
        s = (f.content - self.mean) * known  # (N, E)
        gate = (f.users / (f.users + config.kappa) * config.ids)[:, None]
        co = s @ self.components.T + gate * self.drop(self.ids(rows) * (rows > 0)[:, None])
        x = self.fine(s).view(-1, a, c)  # (N, A, c)
        told = self.item_opinions(x, f.edges, None) if config.opinions else 0.0
        x_hat = self.item_head((x + told).flatten(1))
        vectors = torch.cat([co, self.adapter(s), x_hat], 1)
        bias = (self.prior[0] * torch.log1p(f.users) + self.prior[1] * f.recency) * config.prior
        return ItemTable([str(row) for row in range(len(rows))], vectors, bias, {"fine": x, "users": f.users})

    def users(self, f: UserFeatures, vectors: Tensor, fine: Tensor) -> Tensor:
        """Features of B users and the table's vectors (N, 3d) and fine (N, A, c) -> (B, 3d)."""
        met = vectors.index_select(0, f.history.flatten())  # faster than by [] by far
        return self.users_who(f, met.view(*f.history.shape, -1), fine)

    def users_who(self, f: UserFeatures, met: Tensor, fine: Tensor) -> Tensor:
        """From the vectors of the items met (B, L, 3d): -> (B, 3d).

        A user of whom nothing is known is a zero vector: all that is left is the prior.
        """
        b, d = len(met), self.config.d
        co, se, x_hat = met.float().split(d, -1)  # 3 x (B, L, d); a served table is bf16 on a GPU
        parts = [*self._newest(co, se, f.real), self._fine_user(f, x_hat, fine)]
        u = torch.cat([gain * self.drop(part) for gain, part in zip(self.gains * self.used, parts, strict=True)], 1)
        return u * (_some(f.real) | _reviewed(f.edges, b))

    def _newest(self, co: Tensor, se: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:  # -> (B, d) twice
        if not self.training:
            return self.sequences.last(co, se, real)
        co, se = self.sequences(co, se, real)  # in training as it always was: dropout draws for every position
        rows, last = torch.arange(len(co), device=co.device), (real.sum(1) - 1).clamp(min=0)
        return co[rows, last], se[rows, last]

    def _fine_user(self, f: UserFeatures, x_hat: Tensor, fine: Tensor) -> Tensor:  # -> (B, d)
        x = self.around(f, fine)
        told = self.user_opinions(x, f.edges, reviewed(f.edges, fine)) if self.config.opinions else 0.0
        u = self.user_head((x + told).flatten(1))  # (B, d)
        assert u.shape == (len(f.history), self.config.d)
        return u + (self.fused(u, x_hat, f.real)[:, :, None] * x_hat).sum(1)  # type: ignore[no-any-return]

    def around(self, f: UserFeatures, fine: Tensor) -> Tensor:
        """q^a from the items met: (B, A, c)."""
        real = f.real.float()
        sums = F.embedding_bag(f.history, fine.flatten(1), per_sample_weights=real, mode="sum")  # (B, A c)
        return (sums / real.sum(1, keepdim=True).clamp(min=1)).view(len(real), *fine.shape[1:])

    def fused(self, u: Tensor, x_hat: Tensor, real: Tensor) -> Tensor:
        """The weight of each item met: (B, d), (B, L, d) -> (B, L)."""
        weight = (self.fusion(u)[:, None] * x_hat).sum(-1) / self.config.d**0.5
        return weight.masked_fill(~real, -1e4).softmax(1) * _some(real)  # type: ignore[no-any-return]

    @torch.no_grad()
    def fit_content(self, content: Tensor) -> None:
        """Take mean and principal components from the items' contents (N, E), as LLM-ESR starts its co view."""
        known = content[(content != 0).any(1)]
        if len(known) < 2:
            return
        self.mean.copy_(known.mean(0))
        _, _, axes = torch.linalg.svd(known - self.mean, full_matrices=False)
        kept = min(len(axes), self.config.d)
        self.components[:kept] = axes[:kept]


def reviewed(edges: Edges, fine: Tensor) -> Tensor:
    """The places (M, c) of the items that opinions are of, on the attribute; zero where the table has no such item."""
    return fine[edges.item.clamp(min=0), edges.attribute].float() * (edges.item >= 0)[:, None]


def _causal(real: Tensor) -> Tensor:
    """(B, L) -> (B, 1, L, L) bool: row t may look at real columns up to t.

    A history starts in column 0, so only an empty one has a row with nothing to look at; it sees column 0, and
    its result is put to zero.
    """
    length = real.shape[1]
    seen = torch.tril(torch.ones(length, length, dtype=torch.bool, device=real.device)) & real[:, None]
    seen[:, :, 0] = True
    return seen[:, None]


def _some(real: Tensor) -> Tensor:
    return real.any(1, keepdim=True)  # (B, 1)


def _reviewed(edges: Edges, b: int) -> Tensor:
    seen = torch.zeros(b, dtype=torch.bool, device=edges.node.device)
    seen[edges.node] = True
    return seen[:, None]  # (B, 1)
