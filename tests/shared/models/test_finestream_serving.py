"""shared/models/finestream_serving.py: what is served of the network gives the network's numbers."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from shared.graph.state import UserState
from shared.models.finestream import Finestream
from shared.models.finestream_network import Config, Network
from shared.models.neighbours import Neighbours
from tests.shared.models.worlds import CONFIG, SPACE, START, states


def made(config: Config, seed: int, folder: Path) -> Finestream:
    """A model as ranking reads it, every weight of it drawn anew: what is zero at first must not hide an error."""
    torch.manual_seed(seed)
    network = Network(config, 8)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    e, r = config.schema.embedding_dim, config.rank
    near = Neighbours(torch.randn(9, r), torch.randn(e), torch.randn(e, r), config.sure)
    Finestream(SPACE, config, [f"i{n}" for n in range(8)], network, near).save(folder)
    return Finestream.read(folder)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), users=st.integers(1, 9), opinions=st.booleans(), decay=st.sampled_from([1.0, 0.8])
)  # fmt: skip
def test_the_served_user_side_gives_the_networks_numbers_and_tells_the_same_of_what_moved_scores(
    seed: int, users: int, opinions: bool, decay: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = made(replace(CONFIG, opinions=opinions, decay=decay), seed, tmp_path_factory.mktemp("model"))
    known, items = states(seed, users)
    chance = random.Random(seed)
    asked = [
        *known,
        UserState("nobody"),
        structs.replace(known[0], interactions=()),
        structs.replace(known[-1], reviews=()),
    ]
    chance.shuffle(asked)
    table = model.encode_items(items[: chance.randint(1, len(items))])  # what the table lacks is passed over
    rows = [[chance.randrange(len(table)) for _ in range(3)] for _ in asked]
    served, told = model.encode_users(asked, table, START), model.moved(asked, table, rows)
    model._user_side = None
    assert torch.allclose(served, model.encode_users(asked, table, START), atol=1e-5)
    again = model.moved(asked, table, rows)
    for ours, theirs in ((told.by_items, again.by_items), (told.by_said, again.by_said)):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert told.said == again.said


@pytest.mark.parametrize("change", [{"layers": 2}, {"cross_attention": False}])
def test_a_network_of_another_form_is_served_as_it_is(change: dict[str, int | bool], tmp_path: Path) -> None:
    model = made(replace(CONFIG, **change), 0, tmp_path)  # type: ignore[arg-type]
    assert model._user_side is None
    users, items = states()
    assert model.encode_users(users, model.encode_items(items), START).isfinite().all()
