import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shared.events import Opinions
from shared.graph.fold import edges_of, fold_item, fold_user
from shared.graph.state import ItemNode, UserState
from shared.models import contract
from shared.models.contract import ItemTable, score
from shared.models.features import item_features, user_features
from shared.models.finestream import Finestream
from shared.models.finestream_network import Network, Sequences
from shared.models.neighbours import Neighbours
from shared.models.softmax import segment_softmax
from tests.shared.models.worlds import CONFIG, DAY, SCHEMA, SOURCE, SPACE, START, interaction, opinions, states

NOW = START + 100 * DAY
USERS, ITEMS = states()


@pytest.fixture
def model() -> Finestream:
    torch.manual_seed(0)
    network = Network(CONFIG, 8)  # of 10 items, two are unknown to the ID table
    network.fit_content(item_features(ITEMS, SCHEMA, 365.0, "cpu").content)
    generator = torch.Generator().manual_seed(1)
    near = Neighbours(*(torch.randn(*shape, generator=generator) for shape in ((9, 4), (12,), (12, 4))), kappa=2.0)
    return Finestream(SPACE, CONFIG, [item.item_id for item in ITEMS[:8]], network, near)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5)


def test_every_parameter_gets_a_gradient(model: Finestream) -> None:
    network = model.network.train()
    features = item_features(ITEMS, SCHEMA, 365.0, "cpu")
    table = network.items(features, model.id_rows([item.item_id for item in ITEMS]))
    row_of = {item.item_id: row for row, item in enumerate(ITEMS)}
    users = network.users(user_features(USERS, row_of, SCHEMA, 8, "cpu"), table.vectors, table.extra["fine"])
    logits = users @ table.vectors.T + table.bias
    torch.nn.functional.cross_entropy(logits, torch.arange(len(USERS))).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_a_later_event_or_padding_changes_nothing_before_it() -> None:
    torch.manual_seed(0)
    sequences = Sequences(CONFIG).eval()
    co, se = torch.randn(2, 3, 6, 16)
    real = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()
    before = sequences(co, se, real)
    for t in range(5):
        changed_co, changed_se = co.clone(), se.clone()
        changed_co[:, t + 1 :] += torch.randn(3, 5 - t, 16)
        changed_se[:, t + 1 :] -= 7.0
        after = sequences(changed_co, changed_se, real)
        for old, new in zip(before, after, strict=True):
            assert close(old[:, : t + 1], new[:, : t + 1])
    assert not close(before[0][0, 5], sequences(co + 1.0 * (torch.arange(6) == 5)[:, None], se, real)[0][0, 5])


@pytest.mark.parametrize("layers", [1, 2])
def test_what_is_served_of_the_sequences_is_their_last_real_position(layers: int) -> None:
    torch.manual_seed(0)
    sequences = Sequences(replace(CONFIG, layers=layers)).eval()
    co, se = torch.randn(2, 4, 6, 16)
    real = torch.arange(6) < torch.tensor([6, 4, 1, 0])[:, None]
    for every, last in zip(sequences(co, se, real), sequences.last(co, se, real), strict=True):
        assert close(every[torch.arange(4), torch.tensor([5, 3, 0, 0])], last)


def test_a_users_vector_does_not_depend_on_who_shares_the_batch(model: Finestream) -> None:
    table = model.encode_items(ITEMS)
    together = model.encode_users([*USERS, UserState("nobody")], table, NOW)
    for row, user in enumerate(USERS):
        assert close(model.encode_users([user], table, NOW)[0], together[row])


def test_an_items_row_does_not_depend_on_the_other_items(model: Finestream) -> None:
    table = model.encode_items(ITEMS)
    for row, item in enumerate(ITEMS):
        alone = model.encode_items([item])
        assert close(alone.vectors[0], table.vectors[row])
        assert close(alone.bias[0], table.bias[row])
        assert close(alone.extra["fine"][0], table.extra["fine"][row])
    backwards = model.encode_items(ITEMS[::-1])
    assert close(backwards.vectors.flip(0), table.vectors)


def test_a_saved_model_scores_the_same_when_loaded(model: Finestream, tmp_path: Path) -> None:
    model.config = replace(model.config, personal=0.5)
    model.save(tmp_path)
    table = model.encode_items(ITEMS)
    table.save(tmp_path)
    loaded = contract.load(tmp_path)
    assert loaded.kind == "finestream"
    assert loaded.space == SPACE
    read = ItemTable.read(tmp_path)
    before = score(model.encode_users(USERS, table, NOW), table)
    after = score(loaded.encode_users(USERS, read, NOW), read)  # by loops, which sum in another order
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)
    assert torch.equal(read.vectors, loaded.encode_items(ITEMS).vectors)


def test_a_user_never_seen_scores_as_the_prior_does(model: Finestream) -> None:
    table = model.encode_items(ITEMS)
    users = model.encode_users([UserState("new")], table, NOW)
    assert torch.equal(score(users, table)[0], table.bias)


def test_one_interaction_moves_the_ranking_of_a_user_never_seen(model: Finestream) -> None:
    table = model.encode_items(ITEMS)
    user = fold_user(UserState("new"), [interaction("new", "i3", NOW)])
    assert not close(score(model.encode_users([user], table, NOW), table)[0], table.bias)


def test_a_review_moves_the_ranking_even_of_an_item_that_the_table_lacks(model: Finestream) -> None:
    table = model.encode_items(ITEMS)
    fact = opinions(random.Random(1), "new", "elsewhere", NOW)
    user = fold_user(UserState("new"), [fact])
    assert model.encode_users([user], table, NOW).abs().sum() > 0


def test_items_of_a_history_that_the_table_lacks_are_passed_over(model: Finestream) -> None:
    table = model.encode_items(ITEMS)
    known = fold_user(UserState("u"), [interaction("u", "i1", START)])
    more = fold_user(known, [interaction("u", "gone", START + DAY)])
    assert close(model.encode_users([known], table, NOW), model.encode_users([more], table, NOW))


def test_a_new_item_has_a_place_from_its_first_review(model: Finestream) -> None:
    bare = ItemNode("brand-new")
    fact: Opinions = opinions(random.Random(2), "u0", "brand-new", NOW)
    reviewed = fold_item(bare, [edges_of(fact, SOURCE)])
    table = model.encode_items([bare, replace_id(reviewed, "same-review")])
    assert not close(table.vectors[0], table.vectors[1])
    assert torch.isfinite(table.vectors).all()
    assert torch.isfinite(table.bias).all()


def test_a_table_in_bf16_ranks_about_the_same(model: Finestream) -> None:
    table = model.encode_items(ITEMS)
    half = table.to("cpu", torch.bfloat16)
    exact = score(model.encode_users(USERS, table, NOW), table)
    rounded = score(model.encode_users(USERS, half, NOW), half)
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().max() < 0.02 * exact.abs().max()


def test_an_empty_table_and_an_empty_batch_are_answered(model: Finestream) -> None:
    table = model.encode_items([])
    assert table.vectors.shape == (0, 52)
    assert model.encode_users(USERS, table, NOW).shape == (len(USERS), 52)
    assert model.encode_users([], model.encode_items(ITEMS), NOW).shape == (0, 52)


def test_segment_softmax_is_a_softmax_within_each_segment() -> None:
    logits, segment = torch.tensor([1.0, 200.0, 2.0, 203.0, -5.0]), torch.tensor([0, 2, 0, 2, 3])
    got = segment_softmax(logits, segment, 5)
    assert close(got[[0, 2]], torch.softmax(logits[[0, 2]], 0))
    assert close(got[[1, 3]], torch.softmax(logits[[1, 3]], 0))
    assert got[4] == 1.0


def replace_id(node: ItemNode, item_id: str) -> ItemNode:
    return ItemNode(item_id, reviews=node.reviews, last_seen=node.last_seen)
