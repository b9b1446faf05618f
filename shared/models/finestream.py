"""finestream, our default: three models of one user that see different things, added up; none has a user-ID table.

  v    the network: LLM-ESR's two views and FineRec's opinions        finestream_network.py
  f    the neighbours: graph-filtered co-occurrence, not learnt       neighbours.py
  e    LLM-ESR on its own, with an ID for every item                  llmesr_network.py
  score p u . v + m u_f . f + q u_e . e + b,   b the network's prior; p, m and q are chosen on validation

Each is fitted alone: learnt together they fit worse. The network knows the items as they were at the time of each
case, LLM-ESR as they are now; their mistakes differ, which is what adding them up lives on.
Shapes: B users, N items, d width of the network, r rank of the neighbours, D width of LLM-ESR.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from json import dumps, loads
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.graph.state import ItemNode, UserState
from shared.models import llmesr_network
from shared.models.contract import WEIGHTS_FILE, ItemTable, read_config, write_config
from shared.models.features import Schema, item_features, user_features
from shared.models.finestream_network import Config, Network
from shared.models.neighbours import Neighbours, nobody

IDS_FILE: Final = "ids.json"
NEIGHBOUR_TENSORS: Final = ("factors", "mean", "from_text")


class Finestream:
    """As ranking serves it: vectors (N, 3d + r + D), one part after the other."""

    kind = "finestream"

    def __init__(
        self, space: str, config: Config, ids: Sequence[str], network: Network,
        neighbours: Neighbours | None = None, esr: llmesr_network.Network | None = None, device: str = "cpu",
    ) -> None:  # fmt: skip
        """`ids`: the items that training has met, from row 1 of the ID table and of the neighbours, from row 0 of
        LLM-ESR; row 0 of the former is any other item."""
        self.space, self.config, self.ids, self.device = space, config, list(ids), device
        self.network = network.to(device)
        self.neighbours = (neighbours or nobody(config.rank, len(self.ids), config.schema.embedding_dim)).to(device)
        self.esr = None if esr is None else esr.to(device)
        self.row_of = {item_id: row for row, item_id in enumerate(self.ids, start=1)}

    @property
    def widths(self) -> list[int]:
        """Of the parts of a vector."""
        return [3 * self.config.d, self.neighbours.rank, 0 if self.esr is None else self.esr.width]

    @torch.no_grad()
    def encode_items(self, items: Sequence[ItemNode]) -> ItemTable:
        self.network.eval()
        features = item_features(items, self.config.schema, self.config.half_life_days, self.device)
        rows = self.id_rows([item.item_id for item in items])
        table = self.network.items(features, rows)
        parts = [table.vectors, self.neighbours.items(rows, features.content, features.users)]
        if self.esr is not None:
            parts.append(self.esr.eval().place(rows - 1, features.content))
        return ItemTable([item.item_id for item in items], torch.cat(parts, 1), table.bias, table.extra)

    @torch.no_grad()
    def encode_users(self, users: Sequence[UserState], table: ItemTable, now: float) -> Tensor:
        """`now` is not read: a history counts the same however old it is."""
        self.network.eval()
        config = self.config
        if not users or not len(table):
            return torch.zeros(len(users), sum(self.widths), device=self.device)
        features = user_features(users, table.row_of, config.schema, config.longest, self.device)
        v, f, e = table.vectors.split(self.widths, 1)
        near = self.neighbours.users(f[features.history], features.real, config.decay)
        parts = [
            config.personal * self.network.users(features, v, table.extra["fine"]),
            config.neighbours * config.neighbour_view * near,
        ]
        if self.esr is not None:
            parts.append(config.esr * self.esr.eval().last(e[features.history].float(), features.real))
        return torch.cat(parts, 1)

    def id_rows(self, item_ids: Sequence[str]) -> Tensor:
        """Rows of the ID table (N,); 0 for an item that training has not met."""
        return torch.tensor([self.row_of.get(i, 0) for i in item_ids], dtype=torch.int64, device=self.device)

    def save(self, folder: Path) -> None:
        esr = None if self.esr is None else asdict(self.esr.config)
        write_config(folder, self.kind, self.space, {"finestream": asdict(self.config), "esr": esr})
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"neighbours.{name}": getattr(self.neighbours, name) for name in NEIGHBOUR_TENSORS}
        if self.esr is not None:
            tensors |= {f"esr.{name}": tensor for name, tensor in self.esr.state_dict().items()}
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)
        (folder / IDS_FILE).write_text(dumps(self.ids))

    @classmethod
    def read(cls, folder: Path, device: str = "cpu") -> "Finestream":
        stored = read_config(folder)
        config = _config(stored["config"]["finestream"])
        ids = loads((folder / IDS_FILE).read_text())
        tensors = load_file(folder / WEIGHTS_FILE)
        network = Network(config, len(ids))
        network.load_state_dict(_of("network", tensors))
        factors, mean, from_text = (tensors[f"neighbours.{name}"] for name in NEIGHBOUR_TENSORS)
        neighbours = Neighbours(factors, mean, from_text, config.sure)
        esr = None
        if stored["config"]["esr"] is not None:
            of_esr = llmesr_network.Config(**stored["config"]["esr"])
            esr = llmesr_network.Network(of_esr, len(ids), torch.zeros(0, config.schema.embedding_dim))
            esr.load_state_dict(_of("esr", tensors))
        return cls(stored["space"], config, ids, network, neighbours, esr, device)


def _config(stored: Mapping[str, Any]) -> Config:
    schema = stored["schema"]
    held = Schema(schema["embedding_dim"], schema["opinion_dim"], tuple(schema["attributes"]))
    return Config(**{**stored, "schema": held})


def _of(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}
