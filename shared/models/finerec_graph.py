"""Who met what and said what of it, as flat lists that FineRec's convolutions gather from and scatter to.

`Facts` is the log; `Facts.before` the graph as of a time, by the log alone; `Facts.asked` some users as their own
states have them, which is how a question of the training and a case of the evaluation are both read.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.events import Interaction, Opinions
from shared.graph.state import MAX_PAIRS_PER_REVIEW
from shared.models.dataset import Case
from shared.models.features import Schema, user_features
from shared.models.sequences import Ints
from shared.models.split import Split
from shared.space import SCALE

WIDEST: Final = 64  # who met the same is looked up among the newest so many of each: a hit's whole crowd tells nothing


@dataclass(frozen=True)
class Nodes:
    """What n nodes of one side have said, met and shared; each list is flat: `*_node` is in [0, n)."""

    row: Tensor  # (n,) of their own table; its last row is for whom the log does not know
    said_node: Tensor  # (M,) int64
    said_of: Tensor  # (M,) row of the other side
    attribute: Tensor  # (M,) in [0, A)
    opinion: Tensor  # (M, c) float32
    met_node: Tensor  # (K,)
    met: Tensor  # (K,) row of the other side
    peer_node: Tensor  # (P,)
    peer: Tensor  # (P,) row of their own side
    common: Tensor  # (P,) float32: how many both have met

    def to(self, device: str) -> "Nodes":
        return Nodes(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Graph:
    """Both sides as of one time."""

    users: Nodes
    items: Nodes
    counts: Tensor  # (N,) float32: users who met the item

    def to(self, device: str) -> "Graph":
        return Graph(self.users.to(device), self.items.to(device), self.counts.to(device))


@dataclass(frozen=True)
class Facts:
    """A log as flat lists, oldest first. An opinion holds from `since` to `until`, when an edit replaced it."""

    users: dict[str, int]  # id -> row
    items: dict[str, int]
    place: Ints  # (attributes of the schema,): which of the A that are kept, -1 for the others
    since: NDArray[np.float64]  # (M,)
    until: NDArray[np.float64]
    said: Ints  # (M, 3): user, item, attribute
    opinion: Tensor  # (M, c): data, not parameters, so that no initialisation can overwrite them
    met_since: NDArray[np.float64]  # (K,)
    met: Ints  # (K, 2): user, item; each pair once

    def before(self, ts: float, peers: int) -> Graph:
        """What was known strictly before `ts`; without an edit by then, a view that costs no memory."""
        end = int(np.searchsorted(self.since, ts))
        live = self.until[:end] >= ts
        kept = slice(end) if live.all() else np.flatnonzero(live)
        said = torch.from_numpy(self.said[kept])
        opinion = self.opinion[kept if isinstance(kept, slice) else torch.from_numpy(kept)]
        met = self.met[: np.searchsorted(self.met_since, ts)]
        counts = np.bincount(met[:, 1], minlength=len(self.items))
        return Graph(
            _side(len(self.users) + 1, said, opinion, met, peers),
            _side(len(self.items), said[:, [1, 0, 2]], opinion, met[:, [1, 0]], peers),
            torch.from_numpy(counts).float(),
        )

    def asked(self, cases: Sequence[Case], ts: float, schema: Schema, longest: int, peers: int) -> Nodes:
        """The users of `cases` as their own states have them; whom they are alike is asked of the log before `ts`."""
        features = user_features([case.user for case in cases], self.items, schema, longest, "cpu")
        edges, place = features.edges, torch.from_numpy(self.place)[features.edges.attribute]
        kept = (edges.item >= 0) & (place >= 0)
        row = torch.tensor([self.users.get(case.user.user_id, len(self.users)) for case in cases], dtype=torch.int64)
        node = features.real.nonzero()[:, 0]
        met = features.history[features.real]
        log = self.met[: np.searchsorted(self.met_since, ts)]
        mine = np.unique(torch.stack([node, met], 1).numpy(), axis=0)
        met_alike = alike(mine[:, 0], mine[:, 1], log[:, 0], log[:, 1], peers, row.numpy())
        return Nodes(
            row, edges.node[kept], edges.item[kept], place[kept], edges.opinion[kept], node, met, *met_alike
        )  # fmt: skip


def facts_of(split: Split, attributes: int = 0) -> Facts:
    """The opinions and first meetings of a split's log; `attributes`: only so many of the most frequent, 0 for all."""
    users: dict[str, int] = {}
    names = {name: at for at, name in enumerate(split.schema.attributes)}
    numbers: list[tuple[float, float, int, int, int]] = []
    vectors: list[bytes] = []
    met: dict[tuple[int, int], float] = {}
    for user_id, facts in split.log.users():
        user = users[user_id] = len(users)
        said = []
        for ts, fact in facts:
            if isinstance(fact, Interaction) and fact.item_id in split.row_of:
                met.setdefault((user, split.row_of[fact.item_id]), ts)
            elif isinstance(fact, Opinions) and fact.item_id in split.row_of:
                said.append(fact)
        for fact, until in _versions(said):
            for pair in fact.pairs[:MAX_PAIRS_PER_REVIEW]:
                if len(pair.vector) == split.schema.opinion_dim:
                    attribute = names.get(pair.attribute, len(names) - 1)
                    numbers.append((fact.ts, until, user, split.row_of[fact.item_id], attribute))
                    vectors.append(pair.vector)
    table = np.array(numbers, np.float64).reshape(-1, 5)
    opinion = np.frombuffer(b"".join(vectors), np.int8).reshape(-1, split.schema.opinion_dim)
    place = _kept(table[:, 4].astype(np.int64), len(names), attributes)
    order = np.argsort(table[:, 0], kind="stable")
    order = order[place[table[order, 4].astype(np.int64)] >= 0]
    said_ = table[order, 2:].astype(np.int64)
    said_[:, 2] = place[said_[:, 2]]
    pairs = sorted(met, key=lambda pair: (met[pair], pair))
    return Facts(
        users,
        split.row_of,
        place,
        table[order, 0],
        table[order, 1],
        said_,
        torch.from_numpy(opinion[order].astype(np.float32) / SCALE),
        np.array([met[pair] for pair in pairs], np.float64),
        np.array(pairs, np.int64).reshape(-1, 2),
    )


def _side(n: int, said: Tensor, opinion: Tensor, met: Ints, peers: int) -> Nodes:
    """`said` (M, 3) and `met` (K, 2) with the side's own rows first."""
    node, other = met[:, 0], met[:, 1]
    row, of, attribute = said.unbind(1)
    shared = alike(node, other, node, other, peers)
    return Nodes(
        torch.arange(n), row, of, attribute, opinion, torch.from_numpy(node), torch.from_numpy(other), *shared
    )  # fmt: skip


def alike(
    node: Ints, met: Ints, other: Ints, other_met: Ints, most: int, own: Ints | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """For each node the others who met the same, at most `most`: (node, other, how many in common).

    Never all pairs: of each thing met, only the newest WIDEST who met it are looked at (the lists are oldest first).
    `own[node]` is the node itself among the others.
    """
    order = np.argsort(other_met, kind="stable")
    end = np.searchsorted(other_met[order], met, "right")
    start = np.maximum(np.searchsorted(other_met[order], met, "left"), end - WIDEST)
    count = end - start
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    a, b = np.repeat(node, count), other[order[np.repeat(start, count) + within]]
    apart = b != (a if own is None else own[a])
    pairs, common = np.unique(np.stack([a[apart], b[apart]], 1), axis=0, return_counts=True)
    best = np.lexsort((pairs[:, 1], -common, pairs[:, 0]))
    pairs, common = pairs[best], common[best]
    place = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
    pairs, common = pairs[place < most], common[place < most]
    return torch.from_numpy(pairs[:, 0]), torch.from_numpy(pairs[:, 1]), torch.from_numpy(common).float()


def _versions(said: Sequence[Opinions]) -> Iterator[tuple[Opinions, float]]:
    """Each review's versions and when the next one came: at one time the fold's order decides, and one holds."""
    reviews: dict[tuple[str, str], list[Opinions]] = defaultdict(list)
    for fact in said:
        reviews[(fact.item_id, fact.review_id)].append(fact)
    for versions in reviews.values():
        versions.sort(key=lambda fact: (fact.ts, fact.extractor_version, fact.content_hash))
        ends = [fact.ts for fact in versions[1:]] + [float("inf")]
        yield from ((fact, end) for fact, end in zip(versions, ends, strict=True) if fact.ts < end)


def _kept(attribute: Ints, names: int, most: int) -> Ints:
    """(names,): the places of the `most` frequent attributes (0: of all that occur) in their own order, else -1.

    A log without opinions has all of them: the tables then learn from who met what alone.
    """
    count = Counter(attribute.tolist()) or Counter(range(names))
    frequent = sorted(count, key=lambda at: (-count[at], at))[: most or None]
    place = np.full(names, -1, np.int64)
    place[sorted(frequent)] = np.arange(len(frequent))
    return place
