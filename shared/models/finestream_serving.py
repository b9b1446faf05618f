"""finestream as ranking serves it on a CPU: the user side in compiled loops (finestream_loops.py).

A ranking of a few users is hundreds of small operations of torch, whose start takes longer than what they compute.
`Network.users_who`, `Neighbours.users` and `finestream_attribution.moved` stay the reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import is_
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from shared.events import Pair
from shared.graph.state import UserState
from shared.models import finestream_loops
from shared.models.attribution import Moved
from shared.models.contract import ItemTable
from shared.models.features import history_rows, opinions_of, padded_rows
from shared.models.finestream_loops import Table, Users, View, Weights
from shared.models.finestream_network import Block
from shared.models.loops import STEP, Floats
from shared.native import spread

if TYPE_CHECKING:
    from shared.models.finestream import Finestream

LEAST_USERS: Final = 4  # that are worth a thread's waking


@dataclass(frozen=True)
class _Asked:
    """What was encoded last: what moved its scores is asked for next."""

    states: Sequence[UserState]
    table: ItemTable
    users: Users
    view: View
    said: list[Pair]  # of one user after the other

    def of(self, states: Sequence[UserState], table: ItemTable) -> bool:
        return table is self.table and len(states) == len(self.states) and all(map(is_, states, self.states))


class UserSide:
    """Of a model that no longer learns, on a CPU, with one layer and cross attention; see `fits`."""

    def __init__(self, model: "Finestream") -> None:
        self._model = model
        self._weights = _weights(model)
        self._asked: _Asked | None = None

    @staticmethod
    def fits(model: "Finestream") -> bool:
        config, part = model.config, model.config.d // model.config.heads
        return model.device == "cpu" and config.layers == 1 and config.cross_attention and part % STEP == 0

    def users(self, states: Sequence[UserState], table: ItemTable) -> Tensor:
        """As Finestream.encode_users, of some users and a table with rows: (B, 3d + r)."""
        self._asked = self._encoded(states, table)
        return torch.from_numpy(self._asked.view.users)

    def moved(self, states: Sequence[UserState], table: ItemTable, rows: Sequence[Sequence[int]]) -> Moved:
        """See attribution.Attributing."""
        asked, self._asked = self._asked, None
        if asked is None or not asked.of(states, table):
            asked = self._encoded(states, table)
        picked = padded_rows(rows)  # (B, K)
        counts = np.diff(asked.users.first)
        by_items = _nothing(*asked.users.history.shape, picked.shape[1])
        by_said = _nothing(len(states), max(1, counts.max()), picked.shape[1])
        given = self._weights, _table(table), asked.users, asked.view, picked, by_items, by_said
        spread(partial(finestream_loops.moved, *given), len(states), LEAST_USERS)
        said = [asked.said[first:end] for first, end in pairwise(asked.users.first.tolist())]
        return Moved(torch.from_numpy(asked.users.history), torch.from_numpy(by_items), said, torch.from_numpy(by_said))

    def _encoded(self, states: Sequence[UserState], table: ItemTable) -> _Asked:
        config, b = self._model.config, len(states)
        rows = [history_rows(state, table.row_of, config.longest) for state in states]
        reviews = [state.reviews for state in states]
        (node, attribute, polarity, item), opinion, said = opinions_of(reviews, table.row_of, config.schema)
        first = np.searchsorted(node, np.arange(b + 1))  # opinions are in order of their node
        length = np.fromiter(map(len, rows), np.int64, b)
        users = Users(padded_rows(rows), length, first, attribute, opinion, polarity, item)
        m, c = users.opinion.shape
        shapes = ((m,), (m, c), (b, len(self._weights.head)), (b, config.d), users.history.shape)
        view = View(*(np.empty(shape, np.float32) for shape in (*shapes, (b, table.vectors.shape[1]))))
        spread(partial(finestream_loops.encode, self._weights, _table(table), users, view), b, LEAST_USERS)
        return _Asked(states, table, users, view, said)


def _table(table: ItemTable) -> Table:
    return Table(table.vectors.numpy(), table.extra["fine"].flatten(1).numpy())


def _nothing(*shape: int) -> Floats:
    return np.full(shape, -np.inf, np.float32)


def _weights(model: "Finestream") -> Weights:
    network, config = model.network, model.config
    sequences, opinions = network.sequences, network.user_opinions
    to_co, to_se, block = sequences.to_co, sequences.to_se, cast(Block, sequences.blocks[-1])
    asked, length = block.attention, config.d // config.heads
    head, tail = cast(nn.Linear, network.user_head[0]), cast(nn.Linear, network.user_head[2])
    up, down = block.up, block.down
    views = (to_co.k, to_co.v, to_se.q), (to_se.k, to_se.v, to_co.q)
    scale = torch.ones(3 * config.d)
    scale[2 * config.d :] = length**-0.5
    return Weights(
        heads=config.heads,
        position=_array(sequences.position),
        into=_array(torch.stack([torch.cat([one.weight for one in maps]).T * scale for maps in views])),
        into_shift=_array(torch.stack([torch.cat([_shift(one) for one in maps]) * scale for maps in views])),
        out=_array(torch.stack([to_co.out.weight.T, to_se.out.weight.T])),
        out_shift=_array(torch.stack([to_co.out.bias, to_se.out.bias])),
        norm1=_norm(block.norm1), norm2=_norm(block.norm2), norm=_norm(sequences.norm),
        nothing=np.zeros(max(head.in_features, config.d), np.float32),
        asks=_array(asked.q.weight.T * length**-0.5), keys=_array(asked.k.weight),
        values=_array(asked.v.weight.view(config.heads, length, config.d).transpose(1, 2)),
        values_shift=_array(asked.v.bias),
        met=_array(asked.out.weight.T), met_shift=_array(asked.out.bias),
        up=_array(up.weight.T), up_shift=_array(up.bias), down=_array(down.weight.T), down_shift=_array(down.bias),
        attribute=_array(opinions.attribute.weight), polarity=_array(opinions.polarity.weight),
        maps=_array(opinions.maps), shifts=_array(opinions.shifts),
        head=_array(head.weight.T), head_shift=_array(head.bias),
        tail=_array(tail.weight.T), tail_shift=_array(tail.bias),
        fusion=_array(network.fusion.weight.T * config.d**-0.5),
        fusion_shift=_array(network.fusion.bias * config.d**-0.5),
        head_back=_array(head.weight), tail_back=_array(tail.weight),
        gains=_array(network.gains * network.used),
        counts=np.array(
            [config.personal, config.neighbours * config.neighbour_view, config.opinions], np.float32
        ),
        powers=np.power(config.decay, np.arange(config.longest + 1)).astype(np.float32),
    )  # fmt: skip


def _array(tensor: Tensor) -> Floats:
    return cast(Floats, tensor.detach().float().contiguous().numpy().copy())


def _norm(norm: nn.LayerNorm) -> Floats:
    return _array(torch.stack([norm.weight, norm.bias]))


def _shift(one: nn.Linear) -> Tensor:
    return torch.zeros(one.out_features) if one.bias is None else one.bias
