"""A fixed model and what ranking answers with it, kept as files: python -m tests.services.ranking.golden writes both.

The model is made anew only where its folder is gone: what is read here is a bundle's folder as it was once written.
"""

from pathlib import Path
from typing import Any, Final

import torch
from google.protobuf.json_format import MessageToDict
from msgspec.structs import replace

from services.ranking.requests import Query
from shared.graph.state import ItemFacts, ItemNode, UserState
from shared.models.features import item_features
from shared.models.finestream import Finestream
from shared.models.finestream_network import Network
from shared.models.neighbours import Neighbours
from shared.pb.finestream.v1 import ranking_pb2
from tests.shared.models.worlds import CONFIG, SCHEMA, SPACE, START, states

FOLDER: Final = Path(__file__).parent
MODEL: Final = FOLDER / "model"
ANSWERS: Final = FOLDER / "answers.json"
VERSION: Final = "golden"
QUERIES: Final = (
    Query("u0", 5),
    Query("u1", 3, include_seen=True, explain=False),
    Query("u2", 4, context=("i3", "i7"), excludes=("i1",)),
    Query("u3", 10, candidates=("i2", "i4", "i6", "unknown")),
    Query("stranger", 3),
    Query("u3", 3, leave_out=True),
    Query("u1", 3, include_seen=True, explain=False, prices=(2.0, 6.0)),
)


def world_states() -> tuple[list[UserState], list[ItemNode]]:
    users, items = states(seed=7)
    priced = [ItemFacts(START, "hash", "", "", "", (), True, float(n)) for n in range(len(items))]
    return users, [replace(item, facts=facts) for item, facts in zip(items, priced, strict=True)]


def answer(response: ranking_pb2.RankResponse) -> dict[str, Any]:
    """As JSON, without the id that is another every time."""
    found: dict[str, Any] = MessageToDict(response, preserving_proto_field_name=True)
    found.pop("request_id")
    return found


def make_model(folder: Path = MODEL, seed: int = 7) -> None:
    """Random weights, of which nothing but their being fixed matters."""
    torch.manual_seed(seed)
    _, items = world_states()
    network = Network(CONFIG, len(items))
    network.fit_content(item_features(items, SCHEMA, CONFIG.half_life_days, "cpu").content)
    shapes = ((len(items) + 1, CONFIG.rank), (SCHEMA.embedding_dim,), (SCHEMA.embedding_dim, CONFIG.rank))
    near = Neighbours(*(torch.randn(*shape) for shape in shapes), kappa=CONFIG.sure)
    folder.mkdir()
    Finestream(SPACE, CONFIG, [item.item_id for item in items], network, near).save(folder)
