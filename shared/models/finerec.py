"""FineRec (Zhang et al., SIGIR 2024): what was said about each attribute, on both sides of a review.

  u^a, x^a    a place on each attribute for every user and item, from tables: the model is transductive
  u_hat^a   = u^a + sum over u's opinions e on a of w_e f_v(x^a + o_e),  w = softmax(f_q(u^a) . f_k(t_a + x^a) / sqrt c)
  U         = [u_hat^a]_a;  U_hat = h_U(U + (m_u + c_u) / 2)
  m_u       = sum over the items met of softmax(U . g_U(X_i) / sqrt D) g_U(X_i);  c_u = mean U of users who met the same
  score(i)  = (U_hat_u + mean of X_hat over the history) . X_hat_i;   items have the same with the roles swapped

u_hat is the diversity-aware convolution, U_hat the interaction-driven fusion. The weights are a softmax here, for the
public code's sums saturate with the degree. What a question sees: items and the other users as of the start of the
question's window, the asked user's own history and opinions up to the question, all of it strictly earlier. What was
said is data, not a parameter: no initialisation can overwrite it, and a review later than the fit is read alike.

`faithful` is what the public code does instead: noise for opinions, stop-gradients around what the convolution and m
add, no normalisation, and one graph of the whole log that holds the edges of its own labels.

Shapes: B users asked, U users, N items, M opinions, K meetings, A attributes, c opinion vector, D = A c, d width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from shared.models.dataset import Case, windows
from shared.models.finerec_graph import Facts, Graph, Nodes, facts_of
from shared.models.fitting import Fitted, Run
from shared.models.softmax import segment_softmax, softmax_loss
from shared.models.split import FOREVER, Split
from shared.models.training import Options, fitted, learn, validator


@dataclass(frozen=True)
class Config:
    convolution: bool = True  # False: the plain mean of the neighbours
    fusion: bool = True  # False: the attributes' vectors side by side are the user and the item; `d` is then not asked
    opinions: bool = True  # False: who spoke of what, without what was said
    attributes: int = 0  # so many of the most frequent; 0: all that the log speaks of
    faithful: bool = False  # what the public code does
    last_only: bool = False  # one question a user, the last, as the paper trains
    popularity: bool = False  # adds w log(1 + n), n the users who met the item by then; not of the paper
    d: int = 128
    peers: int = 20  # who met the same: at most so many, those with the most in common
    dropout: float = 0.5  # in the convolution
    fusion_dropout: float = 0.2
    longest: int = 20  # of a history
    windows: int = 24  # of training time; each has a graph of its own
    epochs: int = 50
    patience: int = 5
    batch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.0


class Maps(nn.Module):
    """f(z) = dropout(tanh(W_a z + b_a)): one linear map an attribute."""

    def __init__(self, a: int, c: int, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(a, c, c))
        self.bias = nn.Parameter(torch.empty(a, c))
        self.drop = nn.Dropout(dropout)

    def forward(self, z: Tensor) -> Tensor:  # (n, A, c) -> (n, A, c)
        return self.drop(torch.tanh(torch.einsum("nac,acd->nad", z, self.weight) + self.bias))  # type: ignore[no-any-return]

    def edges(self, z: Tensor, attribute: Tensor) -> Tensor:  # (M, c), (M,) -> (M, c)
        y = torch.einsum("mc,mcd->md", z, self.weight[attribute]) + self.bias[attribute]
        return self.drop(torch.tanh(y))  # type: ignore[no-any-return]


class Convolution(nn.Module):
    """The diversity-aware convolution of one side."""

    def __init__(self, a: int, c: int, config: Config) -> None:
        super().__init__()
        self.config = config
        if config.convolution:
            self.q, self.k, self.v = (Maps(a, c, config.dropout) for _ in range(3))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, own: Tensor, other: Tensor, nodes: Nodes, t: Tensor | None) -> Tensor:
        """own (n, A, c) of the nodes, other (n', A, c) the other side's table, t (A, c) -> (n, A, c)."""
        n, a, c = own.shape
        at = nodes.said_node * a + nodes.attribute  # (M,) in [0, n A)
        z = other[nodes.said_of, nodes.attribute]  # (M, c)
        if self.config.opinions:
            z = z + nodes.opinion
        if t is None:
            weight, v = _mean(at, n * a), z
        else:
            k = self.k(self.drop(t + other))[nodes.said_of, nodes.attribute]  # (M, c)
            q, v = self.q(own).reshape(-1, c)[at], self.v.edges(z, nodes.attribute)
            dot = (q * k).sum(1)
            weight = dot if self.config.faithful else segment_softmax(dot / c**0.5, at, n * a)
        out = _sum(weight[:, None] * v, at, n * a).view(n, a, c)
        return own + (out.detach() if self.config.faithful else out)


class Fusion(nn.Module):
    """The interaction-driven fusion of one side: what was met, weighted by agreement, and who met the same."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.config = config
        self.g = _mlp(width, width // 2, width, config.fusion_dropout)
        self.h = _mlp(width, width // 4, config.d, config.fusion_dropout)

    def forward(self, own: Tensor, other: Tensor, side: Tensor, nodes: Nodes) -> Tensor:
        """own (n, D) of the nodes, other (n', D), side (n'', D) all of their own side -> (n, d)."""
        n, width = own.shape
        met = self.g(other)[nodes.met]  # (K, D)
        dot = (own[nodes.met_node] * met).sum(1)
        if self.config.faithful:
            m = _sum(dot[:, None] * met, nodes.met_node, n).detach()
            c = _sum(side[nodes.peer], nodes.peer_node, n)
        else:
            m = _sum(segment_softmax(dot / width**0.5, nodes.met_node, n)[:, None] * met, nodes.met_node, n)
            total = _sum(nodes.common, nodes.peer_node, n)[nodes.peer_node]
            c = _sum((nodes.common / total)[:, None] * side[nodes.peer], nodes.peer_node, n)
        return self.h(own + 0.5 * (m + c))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Encoded:
    """Both sides as of a graph's time."""

    graph: Graph
    table: Tensor  # (U + 1, A, c): the last row is of whom we do not know
    users: Tensor  # (U + 1, D)
    fine: Tensor  # (N, D)
    items: Tensor  # (N, d), what is scored
    bias: Tensor  # (N,)


class Network(nn.Module):
    """The weights; users and items are rows of tables. score = users @ items.T + bias."""

    def __init__(self, config: Config, users: int, items: int, a: int, c: int) -> None:
        super().__init__()
        self.config = config
        self.users = nn.Parameter(torch.empty(users, a, c))
        self.items = nn.Parameter(torch.empty(items, a, c))
        self.attribute = nn.Parameter(torch.empty(a, c)) if config.convolution else None  # t_a
        self.of_users, self.of_items = (Convolution(a, c, config) for _ in range(2))
        self.drop = nn.Dropout(config.fusion_dropout)
        if config.fusion:
            self.fuse_users, self.fuse_items = (Fusion(a * c, config) for _ in range(2))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(config.d**-0.5), config.d**-0.5)
        self.prior = nn.Parameter(torch.ones(())) if config.popularity else None

    def forward(self, graph: Graph, asked: Nodes) -> tuple[Tensor, Tensor, Tensor]:
        """-> users (B, d), items (N, d), bias (N,)."""
        encoded = self.encode(graph)
        return self.ask(encoded, asked), encoded.items, encoded.bias

    def encode(self, graph: Graph) -> Encoded:
        table = torch.cat([self.users, self.users.mean(0, keepdim=True)])
        users = self._convolved(self.of_users, table, self.items, graph.users)
        fine = self._convolved(self.of_items, self.items, table, graph.items)
        items = self.fuse_items(fine, users, fine, graph.items) if self.config.fusion else fine
        bias = torch.zeros_like(graph.counts) if self.prior is None else self.prior * torch.log1p(graph.counts)
        return Encoded(graph, table, users, fine, items, bias)

    def ask(self, encoded: Encoded, asked: Nodes) -> Tensor:
        """(B, d): the asked users, who lie later than the graph, over what they had met and said by then."""
        users = encoded.users
        if self.config.faithful:  # the users of the one graph, who have met all they will meet
            own, nodes = users, encoded.graph.users
        else:
            own, nodes = self._convolved(self.of_users, encoded.table, self.items, asked), asked
        if self.config.fusion:
            own = self.fuse_users(own, encoded.fine, users, nodes)
        if self.config.faithful:
            own = own[asked.row]
        n = len(asked.row)
        return own + _sum(_mean(asked.met_node, n)[:, None] * encoded.items[asked.met], asked.met_node, n)

    def _convolved(self, convolution: Convolution, own: Tensor, other: Tensor, nodes: Nodes) -> Tensor:
        return self.drop(convolution(own[nodes.row], other, nodes, self.attribute).flatten(1))  # type: ignore[no-any-return]


class FineRec:
    """A network with the log that it reads: ranks offline, for users and items of that log."""

    def __init__(self, network: Network, facts: Facts, split: Split, device: str) -> None:
        self.network, self.facts, self.schema, self.device = network, facts, split.schema, device
        self.config = network.config
        self.graph = facts.before(FOREVER, self.config.peers).to(device)
        self._encoded: Encoded | None = None

    def refresh(self) -> None:
        """The weights have changed."""
        self._encoded = None

    @torch.no_grad()
    def score(self, cases: Sequence[Case]) -> Tensor:
        """(B,) -> (B, N): the catalogue as of the end of the log, each user as of their case."""
        self.network.eval()
        if self._encoded is None:
            self._encoded = self.network.encode(self.graph)
        asked = self.facts.asked(cases, FOREVER, self.schema, self.config.longest, self.config.peers)
        users = self.network.ask(self._encoded, asked.to(self.device))
        return users @ self._encoded.items.T + self._encoded.bias


@dataclass(frozen=True)
class Batch:
    """Questions of one window: `targets[q]` is asked of the user `asker[q]` of `asked`."""

    graph: Graph
    asked: Nodes
    asker: Tensor  # (Q,)
    targets: Tensor  # (Q,)

    def share(self, rank: int, world: int) -> "Batch":
        return replace(self, asker=self.asker[rank::world], targets=self.targets[rank::world])


def batches_of(facts: Facts, split: Split, config: Config, device: str) -> list[Batch]:
    """Every question of the log. Graphs are made once and shared by the batches of their window."""
    cases = [case for case in split.training if case.user.interactions]
    if config.last_only:
        cases = sorted({case.user.user_id: case for case in cases}.values(), key=lambda case: case.ts)
    whole = facts.before(FOREVER, config.peers).to(device) if config.faithful else None
    out = []
    for window in windows(cases, config.windows):
        ts = FOREVER if config.faithful else window[0].ts
        graph = whole or facts.before(ts, config.peers).to(device)
        for start in range(0, len(window), config.batch):
            part = window[start : start + config.batch]
            asked = facts.asked(part, ts, split.schema, config.longest, config.peers).to(device)
            pairs = [(at, split.row_of[target]) for at, case in enumerate(part) for target in case.targets]
            asker, targets = torch.tensor(pairs, dtype=torch.int64, device=device).unbind(1)
            out.append(Batch(graph, asked, asker, targets))
    return out


class Learner:
    def __init__(self, split: Split, config: Config, run: Run) -> None:
        torch.manual_seed(run.seed)
        facts = facts_of(split, config.attributes)
        a, c = int(facts.place.max(initial=-1)) + 1, split.schema.opinion_dim
        self.network = Network(config, len(facts.users), len(facts.items), a, c).to(run.device)
        if config.faithful:  # initialised after they were loaded, like every other tensor
            noise = torch.empty_like(facts.opinion).uniform_(-(config.d**-0.5), config.d**-0.5)
            facts = replace(facts, opinion=noise)
        self.model = FineRec(self.network, facts, split, run.device)
        self._batches = batches_of(facts, split, config, run.device)
        self._ndcg = validator(split, self.model.score, seed=run.seed)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        yield from (self._batches[at] for at in rng.permutation(len(self._batches)))

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        users, items, bias = self.network(batch.graph, batch.asked)
        return softmax_loss(users[batch.asker], items, bias, batch.targets), len(batch.targets)

    def validate(self) -> float:
        self.model.refresh()
        return self._ndcg()


def fit(split: Split, config: Config, run: Run) -> Fitted:
    """Train on every question of the log; the number of epochs is chosen on `split.held_out`."""
    learner = Learner(split, config, run)
    options = Options(
        epochs=config.epochs,
        patience=config.patience,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    learnt = learn(learner, options, run, settings=config)
    learner.model.refresh()
    return fitted(learnt, learner.model.score, learner.network, learner.model)


def _mlp(width: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, out), nn.Tanh(), nn.Dropout(dropout)
    )


def _sum(values: Tensor, node: Tensor, n: int) -> Tensor:  # (M, ...), (M,) -> (n, ...)
    return torch.zeros(n, *values.shape[1:], device=values.device, dtype=values.dtype).index_add(0, node, values)


def _mean(node: Tensor, n: int) -> Tensor:  # (M,) -> (M,): what one of a node's edges weighs in their mean
    return 1.0 / torch.bincount(node, minlength=n)[node].float()
