from pathlib import Path

import pytest
import torch

from shared.models import contract
from shared.models.contract import ItemTable
from shared.models.popularity import Config, Popularity
from tests.shared.models.worlds import SPACE, START, states

USERS, ITEMS = states()


def rows(ids: str, value: float) -> ItemTable:
    n = len(ids)
    return ItemTable(list(ids), torch.full((n, 2), value), torch.arange(n) + value, {"users": torch.full((n,), value)})


def test_put_replaces_known_rows_and_appends_new_ones_in_order() -> None:
    table = rows("abc", 1.0)
    assert table.put(rows("dbe", 5.0)).tolist() == [3, 1, 4]
    assert table.item_ids == ["a", "b", "c", "d", "e"]
    assert table.vectors[:, 0].tolist() == [1.0, 5.0, 1.0, 5.0, 5.0]
    assert table.bias.tolist() == [1.0, 6.0, 3.0, 5.0, 7.0]
    assert table.extra["users"].tolist() == [1.0, 5.0, 1.0, 5.0, 5.0]
    assert table.row_of["e"] == 4


def test_put_moves_the_table_seldom_and_leaves_those_alone_that_it_was_made_of() -> None:
    first = rows("a", 1.0)
    table = first.to("cpu")
    places = set()
    for number in range(500):
        table.put(ItemTable([str(number)], torch.zeros(1, 2), torch.zeros(1), {"users": torch.zeros(1)}))
        places.add(table.vectors.data_ptr())
    assert len(table) == 501
    assert len(places) < 30
    assert first.item_ids == ["a"]
    assert first.vectors.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    "other",
    [
        ItemTable(["b"], torch.zeros(1, 2), torch.zeros(1)),
        ItemTable(["b"], torch.zeros(1, 3), torch.zeros(1), {"users": torch.zeros(1)}),
    ],
)
def test_put_refuses_rows_of_another_kind_of_model_and_stays_as_it_was(other: ItemTable) -> None:
    table = rows("a", 1.0)
    with pytest.raises(ValueError, match="same names"):
        table.put(other)
    assert table.item_ids == ["a"]
    assert list(table.row_of) == ["a"]


def test_a_table_refuses_an_id_twice_and_tensors_of_another_length() -> None:
    with pytest.raises(ValueError, match="twice"):
        rows("aa", 1.0)
    with pytest.raises(ValueError, match="bias has 1 rows"):
        ItemTable(["a", "b"], torch.zeros(2, 1), torch.zeros(1))


def test_bf16_is_for_the_scoring_vectors_only() -> None:
    table = rows("ab", 1.0).to("cpu", torch.bfloat16)
    assert table.vectors.dtype == torch.bfloat16
    assert table.bias.dtype == table.extra["users"].dtype == torch.float32
    assert contract.score(torch.ones(1, 2), table).dtype == torch.float32


def test_a_kind_that_the_code_does_not_know_is_refused(tmp_path: Path) -> None:
    contract.write_config(tmp_path, "oracle", SPACE, {})
    with pytest.raises(ValueError, match="oracle"):
        contract.load(tmp_path)


def test_popularity_ranks_by_distinct_users_and_survives_saving(tmp_path: Path) -> None:
    model = Popularity(SPACE, Config(0.5, 100.0))
    model.save(tmp_path)
    loaded = contract.load(tmp_path)
    table = loaded.encode_items(ITEMS)
    assert torch.equal(table.bias, model.encode_items(ITEMS).bias)
    plain = Popularity(SPACE).encode_items(ITEMS)
    assert plain.bias.argsort().tolist() == plain.extra["users"].argsort().tolist()
    users = loaded.encode_users(USERS, table, START)
    assert torch.equal(contract.score(users, table), table.bias.expand(len(USERS), -1))
