from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shared.graph.fold import fold_user
from shared.graph.state import ItemNode, UserState
from shared.models import bert4rec, contract, popularity, sequence_model
from shared.models.contract import score
from shared.models.dataset import Case, cases, read_log
from shared.models.evaluation import evaluate, rank, servable
from shared.models.fitting import Fitted, Run
from shared.models.sequence_model import FLOOR, SequenceLearner, SequenceModel, Served
from shared.models.split import FOREVER, Split
from shared.models.srgnn import edges, nodes
from tests.shared.models.worlds import DAY, SCHEMA, SPACE, START, interaction, noise, semantics, tastes

KINDS = ("sasrec", "gru4rec", "bert4rec", "narm", "srgnn")
SMALL: dict[str, Any] = {"d": 16, "longest": 6, "batch": 32, "dropout": 0.2, "learning_rate": 0.01}
LATE = START + 225 * DAY
ITEMS = 30


def config(kind: str, **changed: Any) -> Any:
    return import_module(f"shared.models.{kind}").Config(**{**SMALL, **changed})


def network(kind: str, seed: int = 0, **changed: Any) -> SequenceModel:
    torch.manual_seed(seed)
    found = import_module(f"shared.models.{kind}").network(config(kind, **changed), ITEMS)
    with torch.no_grad():
        found.items.weight.mul_(20)  # as after some learning: else all states are alike
    return found.eval()  # type: ignore[no-any-return]


def learner(kind: str, split: Split, **changed: Any) -> SequenceLearner:
    torch.manual_seed(0)
    model = Served(kind, SPACE, list(split.row_of), config(kind, **changed), network(kind, **changed))
    return getattr(import_module(f"shared.models.{kind}"), "Learner", SequenceLearner)(model, split)  # type: ignore[no-any-return]


def fit(kind: str, split: Split, run: Run, **changed: Any) -> Fitted:
    return import_module(f"shared.models.{kind}").fit(split, config(kind, **changed), run)  # type: ignore[no-any-return]


@cache
def world(kind: str = "tastes", users: int = 120) -> Split:
    """Training until LATE; held out is what follows."""
    events = {"tastes": tastes, "noise": noise}[kind](users=users, items=ITEMS, each=6)
    log = read_log([event for event in events if event.ts < LATE], SPACE)
    late = cases(read_log(events, SPACE), LATE, FOREVER)
    return Split(log, SPACE, SCHEMA, LATE, [case for case in late if case.user.interactions])


@cache
def fitted(kind: str, of: str = "tastes", seed: int = 1) -> Fitted:
    return fit(kind, world(of), Run(seed, chosen={"epochs": 15 if of == "tastes" else 4}))


def histories() -> tuple[Tensor, Tensor]:
    """Of 5, 3 and 1 items; the first meets one item again."""
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    rows = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [8, 0, 0, 0, 0]])
    return rows, real


def questions(real: Tensor) -> Tensor:
    return real.nonzero()


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_every_parameter_gets_a_gradient(kind: str, loss: str) -> None:
    found = learner(kind, world(), loss=loss, dropout=0.0)
    seen: dict[str, bool] = {}
    for batch in found.batches(np.random.default_rng(0)):
        found.network.zero_grad()
        found.loss(batch)[0].backward()
        for name, parameter in found.network.named_parameters():
            seen[name] = seen.get(name, False) or bool(parameter.grad is not None and parameter.grad.abs().sum() > 0)
    assert [name for name, some in seen.items() if not some] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_after_a_question_changes_nothing_that_it_is_asked_of(kind: str) -> None:
    found = network(kind)
    rows, real = histories()
    at = torch.tensor([[0, column] for column in range(5)])
    before = found(rows, real, at)
    for column in range(1, 5):
        later = rows.clone()
        later[0, column:] = (later[0, column:] + 7) % ITEMS
        after = found(later, real, at)
        assert close(before[:column], after[:column])
        assert not close(before[column], after[column])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_whatever_is_in_it(kind: str) -> None:
    found = network(kind)
    rows, real = histories()
    wide = torch.cat([torch.where(real, rows, 17), torch.full((3, 1), 23)], 1)
    at = questions(real)
    assert close(found(rows, real, at), found(wide, torch.nn.functional.pad(real, (0, 1)), at))


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_is_scored_alike_whoever_shares_the_batch(kind: str) -> None:
    scorer, asked = fitted(kind).scorer, list(world().held_out)[:9]
    together = scorer(asked)
    for at, case in enumerate(asked):
        assert torch.allclose(together[at], scorer([case])[0], atol=1e-4)
    assert torch.allclose(together.flip(0), scorer(asked[::-1]), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_tastes_are_learnt_clearly_better_than_popularity(kind: str) -> None:
    split = world()
    popular = popularity.fit(split, popularity.Config(), Run()).scorer
    reached = [evaluate(s, split.held_out, split.row_of, split.counts.tolist()) for s in (fitted(kind).scorer, popular)]
    assert reached[0]["ndcg@10"] > reached[1]["ndcg@10"] + 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_where_there_is_nothing_to_learn_the_targets_are_found_by_chance(kind: str) -> None:
    split = world("noise")
    found = rank(fitted(kind, "noise").scorer, split.held_out, split.row_of)
    met = np.array([len(split.held_out[at].user.interactions) for at in found.case])
    chance = 10 / (ITEMS - met)  # each target is any of the items that the user has not met
    error = np.sqrt((chance * (1 - chance)).sum()) / len(chance)
    assert abs(found.figures["hr@10"].mean() - chance.mean()) < 3 * error


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_depends_on_its_seed_alone(kind: str) -> None:
    asked = list(world().held_out)[:5]
    first, again, other = (fit(kind, world(), Run(seed, chosen={"epochs": 1})).scorer(asked) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not close(first, other)
    start, other_start = (fit(kind, world(), Run(seed, chosen={"epochs": 0})).scorer(asked) for seed in (1, 2))
    assert not close(start, other_start)


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_fit_chooses_its_epochs_on_validation(kind: str) -> None:
    found = fit(kind, world(), Run(), epochs=2)
    assert found.chosen["epochs"] == max(found.curve, key=lambda point: point[2])[0]
    assert found.samples > 0
    assert found.parameters == sum(p.numel() for p in found.model.network.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_served_as_it_is_evaluated_and_survives_saving(kind: str, tmp_path: Path) -> None:
    split = world()
    model = fitted(kind).model
    model.save(tmp_path)
    loaded = contract.load(tmp_path)
    table = loaded.encode_items(split.items)
    asked = list(split.held_out)[:5]
    assert torch.allclose(servable(loaded, table)(asked), fitted(kind).scorer(asked), atol=1e-5)
    assert table.item_ids == list(split.row_of)
    assert table.extra["users"].tolist() == split.counts.tolist()
    assert (loaded.kind, loaded.space) == (kind, SPACE)


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_that_training_has_not_met_has_no_luck(kind: str) -> None:
    model, split = fitted(kind).model, world()
    table = model.encode_items([ItemNode("new"), *split.items, ItemNode("other")])
    assert not table.vectors[[0, -1]].any()
    assert table.bias[[0, -1]].tolist() == [FLOOR, FLOOR]
    user = split.held_out[0].user
    scores = score(model.encode_users([user], table, 0.0), table)[0]
    assert scores[0] == scores[-1] < scores[1:-1].min() - 1000
    met_new = fold_user(user, [interaction(user.user_id, "new", START + 500 * DAY)])
    assert close(model.encode_users([met_new], table, 0.0), model.encode_users([user], table, 0.0))


def test_the_catalogue_may_hold_items_that_nobody_has_met_yet() -> None:
    events = tastes(users=40, items=ITEMS, each=5)
    plain = Split(read_log(events, SPACE), SPACE, SCHEMA)
    more = Split(read_log([*events, semantics("a-new", bytes(12))], SPACE), SPACE, SCHEMA)
    asked = cases(plain.log, START + 200 * DAY, FOREVER)[:4]
    one, two = (fit("sasrec", split, Run(chosen={"epochs": 2})).scorer(asked) for split in (plain, more))
    assert more.row_of["a-new"] == 0
    assert torch.equal(one, two[:, 1:])
    assert (two[:, 0] < two[:, 1:].min() - 1000).all()


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_met_nothing_known_is_ranked_by_the_bias(kind: str) -> None:
    model = fitted(kind).model
    table = model.encode_items(world().items)
    nobody = UserState("nobody")
    stranger = fold_user(UserState("stranger"), [interaction("stranger", "unheard-of", START)])
    assert not model.encode_users([nobody, stranger], table, START).any()
    both = model.encode_users([nobody, world().held_out[0].user], table, START)
    assert not both[0].any()
    assert both[1].any()
    assert model.encode_users([], table, START).shape == (0, 16)


def test_items_that_the_table_lacks_are_passed_over() -> None:
    model, user = fitted("sasrec").model, world().held_out[0].user
    newest = user.interactions[0].item_id
    short = replace_interactions(user, user.interactions[1:])
    whole = model.encode_items(world().items)
    lacking = model.encode_items([node for node in world().items if node.item_id != newest])
    assert close(model.encode_users([user], lacking, START), model.encode_users([short], whole, START))
    assert not close(model.encode_users([user], whole, START), model.encode_users([short], whole, START))


def replace_interactions(user: UserState, kept: Any) -> UserState:
    return UserState(user.user_id, tuple(kept))


def test_only_the_newest_of_a_long_history_count() -> None:
    model = fitted("sasrec").model
    table = model.encode_items(world().items)
    met = [interaction("u", f"i{at}", START + at * DAY) for at in range(9)]
    whole, newest = fold_user(UserState("u"), met), fold_user(UserState("u"), met[-6:])
    assert close(model.encode_users([whole], table, 0.0), model.encode_users([newest], table, 0.0))


def test_a_log_without_interactions_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to learn"):
        fit("sasrec", Split(read_log([], SPACE), SPACE, SCHEMA), Run())


# BCE


def test_a_negative_is_nothing_that_its_user_met() -> None:
    sequences = world().sequences
    met = sequence_model.met(sequences, ITEMS)
    users = torch.arange(len(sequences)).repeat(20)
    torch.manual_seed(0)
    negatives = sequence_model.unmet(users, met, ITEMS)
    own = [set(sequences.items[a:b].tolist()) for a, b in zip(sequences.offsets, sequences.offsets[1:], strict=False)]
    assert not any(item in own[user] for user, item in zip(users.tolist(), negatives.tolist(), strict=True))
    assert len(set(negatives.tolist())) == ITEMS
    everything = torch.arange(ITEMS)  # one user who has met all
    assert sequence_model.unmet(torch.zeros(3, dtype=torch.int64), everything, ITEMS).shape == (3,)


def test_bce_is_of_the_target_and_one_negative() -> None:
    found = learner("sasrec", world(), loss="bce", bias=False)
    states = torch.zeros(4, 16)
    zero = torch.zeros(4, dtype=torch.int64)
    assert float(found.loss_of(states, zero, zero, zero).detach()) == pytest.approx(2 * np.log(2))
    table = found.network.items.weight.detach()
    sure = found.loss_of(1e4 * table[:1], torch.tensor([0]), zero[:1], zero[:1])
    wrong = found.loss_of(-1e4 * table[:1], torch.tensor([0]), zero[:1], zero[:1])
    assert float(sure.detach()) < float(wrong.detach())


# BERT4Rec

TIMES = st.lists(st.integers(0, 6), min_size=2, max_size=12).map(sorted).filter(lambda t: t[0] < t[-1])


@given(TIMES, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([0.0, 0.5, 1.0]))
def test_one_time_is_hidden_whole_and_something_is_always_left(
    times: list[int], seed: int, share: float, end_only: float
) -> None:
    hidden = bert4rec.hide(np.array(times, float), config("bert4rec", hidden=share, end_only=end_only), rng(seed))
    assert hidden.any()
    assert not hidden.all()
    assert all(hidden[i] == hidden[j] for i in range(len(times)) for j in range(len(times)) if times[i] == times[j])
    if end_only == 1.0:
        assert hidden.tolist() == [ts == times[-1] for ts in times]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_hole_is_not_read_but_for_its_place() -> None:
    found = network("bert4rec")
    rows, real = histories()
    hidden = torch.zeros_like(real)
    hidden[0, 1:3] = True
    at = hidden.nonzero()
    other = rows.clone()
    other[0, 1:3] = torch.tensor([20, 21])
    assert close(found(rows, real, at, hidden), found(other, real, at, hidden))
    other[0, 4] = 22  # later, and not hidden: it is read, as attention goes both ways
    assert not close(found(rows, real, at, hidden), found(other, real, at, hidden))


@pytest.mark.parametrize("repeats", [False, True])
def test_clozes_hold_every_user_once_and_ask_nothing_that_is_in_sight(repeats: bool) -> None:
    again = [interaction("u0", f"i{at % 3}", START + at * DAY) for at in range(9)]
    one_day = [interaction("once", f"i{at}", START) for at in range(3)]
    log = read_log([*noise(users=20, items=ITEMS, each=5), *again, *one_day], SPACE)
    split = Split(log, SPACE, SCHEMA, repeats=repeats)
    found = list(bert4rec.clozes(split.sequences, config("bert4rec", longest=20), rng(0), repeats, "cpu"))
    users = torch.cat([batch.users for batch in found]).tolist()
    assert sorted(users) == [at for at, user in enumerate(split.sequences.users) if user != "once"]
    assert all((batch.hidden & ~batch.real).sum() == 0 for batch in found)
    visible = [
        bool((row[hidden][:, None] == row[real & ~hidden]).any())
        for batch in found
        for row, real, hidden in zip(batch.history, batch.real, batch.hidden, strict=True)
    ]
    if not repeats:
        assert not any(visible)


def test_long_histories_are_cut_from_their_end() -> None:
    events = [interaction("u", f"i{at}", START + at * DAY) for at in range(10)]
    sequences = Split(read_log(events, SPACE), SPACE, SCHEMA).sequences
    pieces = bert4rec.clozes(sequences, config("bert4rec", longest=4, batch=1), rng(0), False, "cpu")
    assert sorted(batch.history[0].tolist() for batch in pieces) == [[0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]


def test_processes_share_clozes_without_a_row_twice() -> None:
    batch = next(iter(learner("bert4rec", world()).batches(rng(0))))
    parts = [batch.share(rank_, 3) for rank_ in range(3)]
    assert sorted(user for part in parts for user in part.users.tolist()) == sorted(batch.users.tolist())


# SR-GNN


def test_a_graph_has_each_item_once_and_shares_of_its_neighbours() -> None:
    rows, real = torch.tensor([[3, 1, 3, 1, 3, 4, 0, 0]]), torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0]]).bool()
    node = nodes(rows, real)
    assert node.tolist() == [[0, 1, 0, 1, 0, 5, 6, 7]]
    outward, inward = edges(node, real)
    assert outward[0].nonzero().tolist() == [[0, 1], [0, 5], [1, 0]]
    assert outward[0, 0, 1] == outward[0, 0, 5] == 0.5  # 3 -> 1 counts once though it happened twice
    assert outward[0, 1, 0] == 1.0
    assert inward[0].nonzero().tolist() == [[0, 1], [1, 0], [5, 0]]


def test_a_graph_is_read_as_the_paper_does() -> None:
    found = network("srgnn", layers=2)
    history = [3, 1, 3, 4, 1]
    items = sorted(set(history))
    places = [items.index(item) for item in history]
    outward = torch.zeros(3, 3)
    outward[places[:-1], places[1:]] = 1.0
    inward = outward.T / outward.T.sum(1, keepdim=True).clamp(min=1)
    outward = outward / outward.sum(1, keepdim=True).clamp(min=1)
    h = 4 * found.items(torch.tensor(items))  # sqrt(d)
    for _ in range(2):
        h = found.gate(torch.cat([outward @ found.out_(h), inward @ found.in_(h)], 1), h)
    s = h[places]
    weight = found.q(torch.sigmoid(found.w1(s[-1]) + found.w2(s)))
    expected = found.norm(found.w3(torch.cat([s[-1], (weight * s).sum(0)])))
    states = found(torch.tensor([history]), torch.ones(1, 5, dtype=torch.bool), torch.tensor([[0, 4]]))
    assert close(states[0], expected)


def test_questions_of_one_prefix_share_a_graph() -> None:
    rows, real = histories()
    at = torch.tensor([[0, 2], [0, 2], [1, 1], [0, 2]])
    found, which = sequence_model.prefixes(rows, real, at)
    assert found.history.tolist() == [[3, 1, 4], [9, 2, 0]]
    assert found.real.sum(1).tolist() == [3, 2]
    assert which.tolist() == [0, 0, 1, 0]


def test_histories_of_one_case_are_read_oldest_first() -> None:
    model = fitted("sasrec").model
    table = model.encode_items(world().items)
    ab, ba = (
        Case(0.0, fold_user(UserState("u"), [interaction("u", i, START + at * DAY) for at, i in enumerate(order)]), ())
        for order in (("i1", "i2"), ("i2", "i1"))
    )
    one, other = (model.encode_users([case.user], table, 0.0) for case in (ab, ba))
    at = torch.tensor([[0, 1]])
    rows = torch.tensor([[model.row_of["i1"], model.row_of["i2"]]])
    assert close(one, model.network(rows, torch.ones(1, 2, dtype=torch.bool), at))
    assert not close(one, other)
