"""finestream, our default: a network and the neighbours of items, added up; neither has a user-ID table.

  v    the network: LLM-ESR's two views and FineRec's opinions        finestream_network.py
  f    the neighbours: graph-filtered co-occurrence, not learnt       neighbours.py
  score p u . v + m u_f . f + b,   b the network's prior; p and m are chosen on validation

Shapes: B users, N items, d width of the network, r rank of the neighbours.
"""

from collections.abc import Sequence
from dataclasses import asdict
from json import dumps, loads
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.graph.state import ItemNode, UserState
from shared.models import finestream_attribution
from shared.models.attribution import Moved
from shared.models.contract import WEIGHTS_FILE, ItemTable, read_config, write_config
from shared.models.features import Schema, UserFeatures, item_features, user_features
from shared.models.finestream_network import Config, Network
from shared.models.finestream_serving import UserSide
from shared.models.loops import STEP
from shared.models.neighbours import Neighbours, nobody

IDS_FILE: Final = "ids.json"
NEIGHBOUR_TENSORS: Final = ("factors", "mean", "from_text")


class Finestream:
    """As ranking serves it: vectors (N, 3d + r), one part after the other."""

    kind = "finestream"

    def __init__(
        self, space: str, config: Config, ids: Sequence[str], network: Network,
        neighbours: Neighbours | None = None, device: str = "cpu",
    ) -> None:  # fmt: skip
        """`ids`: the items that have a row in the ID table, and in the neighbours' factors, from row 1."""
        self.space, self.config, self.ids, self.device = space, config, list(ids), device
        self.network = network.to(device)
        self.neighbours = (neighbours or nobody(config.rank, len(self.ids), config.schema.embedding_dim)).to(device)
        self.row_of = {item_id: row for row, item_id in enumerate(self.ids, start=1)}
        self._user_side: UserSide | None = None  # of a model that was read, and no longer learns

    @property
    def widths(self) -> list[int]:
        """Of the parts of a vector."""
        return [3 * self.config.d, self.neighbours.rank]

    @torch.no_grad()
    def encode_items(self, items: Sequence[ItemNode]) -> ItemTable:
        self._not_training()
        features = item_features(items, self.config.schema, self.config.half_life_days, self.device)
        rows = self.id_rows([item.item_id for item in items])
        table = self.network.items(features, rows)
        near = self.neighbours.items(rows, features.content, features.users)
        vectors = torch.cat([table.vectors, near], 1)
        return ItemTable([item.item_id for item in items], vectors, table.bias, table.extra)

    @torch.no_grad()
    def encode_users(self, users: Sequence[UserState], table: ItemTable, now: float) -> Tensor:
        """`now` is not read: a history counts the same however old it is."""
        self._not_training()
        config = self.config
        if not users or not len(table):
            return torch.zeros(len(users), sum(self.widths), device=self.device)
        if self._user_side:
            return self._user_side.users(users, table)
        features, met = self._ask(users, table)
        u = self.network.users_who(features, met[:, :, : self.widths[0]], table.extra["fine"])
        near = self.neighbours.users(met[:, :, self.widths[0] :], features.real, config.decay)
        return torch.cat([config.personal * u, config.neighbours * config.neighbour_view * near], 1)

    def moved(self, users: Sequence[UserState], table: ItemTable, rows: Sequence[Sequence[int]]) -> Moved:
        """See attribution.Attributing."""
        self._not_training()
        if self._user_side and users and len(table):
            return self._user_side.moved(users, table, rows)
        return finestream_attribution.moved(self, users, *self._ask(users, table), table, rows)

    def _ask(self, users: Sequence[UserState], table: ItemTable) -> tuple[UserFeatures, Tensor]:
        """Users as tensors, and the vectors of the items met (B, L, 3d + r): float32, also of a table in bf16."""
        features = user_features(users, table.row_of, self.config.schema, self.config.longest, self.device)
        met = table.vectors.index_select(0, features.history.flatten())  # faster than by [] by far
        return features, met.view(*features.history.shape, -1).float()

    def _not_training(self) -> None:
        """eval() goes through every module, which takes longer than to encode a user's opinions."""
        if self.network.training:
            self.network.eval()

    @classmethod
    def made_up(cls, items: Sequence[str]) -> "Finestream":
        """As small as can be, of nothing, as it is served: a rehearsal of what all have in common."""
        config = Config(Schema(1, 1, ("other",)), d=2 * STEP, rank=1)
        model = cls("", config, items, Network(config, len(items)))
        model.served()
        return model

    def id_rows(self, item_ids: Sequence[str]) -> Tensor:
        """Rows of the ID table (N,); 0 for an item that training has not met."""
        return torch.tensor([self.row_of.get(i, 0) for i in item_ids], dtype=torch.int64, device=self.device)

    def save(self, folder: Path) -> None:
        write_config(folder, self.kind, self.space, asdict(self.config))
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"neighbours.{name}": getattr(self.neighbours, name) for name in NEIGHBOUR_TENSORS}
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)
        (folder / IDS_FILE).write_text(dumps(self.ids))

    @classmethod
    def read(cls, folder: Path, device: str = "cpu") -> "Finestream":
        stored = read_config(folder)
        schema = stored["config"].pop("schema")
        schema = Schema(schema["embedding_dim"], schema["opinion_dim"], tuple(schema["attributes"]))
        config = Config(schema=schema, **stored["config"])
        ids = loads((folder / IDS_FILE).read_text())
        tensors = load_file(folder / WEIGHTS_FILE)
        network = Network(config, len(ids))
        network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
        factors, mean, from_text = (tensors[f"neighbours.{name}"] for name in NEIGHBOUR_TENSORS)
        neighbours = Neighbours(factors, mean, from_text, config.sure)
        model = cls(stored["space"], config, ids, network, neighbours, device)
        model.served()
        return model

    def served(self) -> None:
        """From here on it no longer learns, and users are encoded by compiled loops where they can be."""
        self._user_side = UserSide(self) if UserSide.fits(self) else None
