from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.events import Interaction
from shared.graph.fold import fold_item, fold_user
from shared.graph.state import ItemNode, UserState
from shared.models import contract, training
from shared.models.batches import Batch
from shared.models.contract import ItemTable, score
from shared.models.dataset import cases, read_log
from shared.models.distillation import semantic_users, tail_users
from shared.models.evaluation import evaluate
from shared.models.features import content_of
from shared.models.fitting import Run
from shared.models.llmesr import LLMESR, Learner, fit
from shared.models.llmesr_network import Config, Network
from shared.models.split import FOREVER, Split
from tests.shared.models.worlds import DAY, SCHEMA, SPACE, START, interaction, noise, semantics, tastes

CONFIG = Config(d=8, layers=1, longest=6, batch=32, dropout=0.2, epochs=3, neighbours=3)
BACKBONES = ("sasrec", "gru4rec", "bert4rec")
SWITCHES: dict[str, dict[str, Any]] = {
    "whole": {},
    "no co-view": {"co_view": False},
    "no se-view": {"se_view": False},
    "no distillation": {"distillation": False},
    "no sharing": {"shared_backbone": False},
    "no cross-attention": {"cross_attention": False},
    "1-layer adapter": {"adapter_layers": 1},
    "random start": {"pca_start": False},
    "bce": {"loss": "bce"},
    "paper's distillation": {"ema": 0.0, "refresh": 1, "weighted": False, "tail_only": False},
}
LATE, NOW = START + 240 * DAY, START + 400 * DAY


def nearest(vectors: Any, k: int) -> tuple[Any, Any]:
    """`Similar` by all pairs: these worlds are small."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -2.0)
    rows = np.argsort(-likeness, 1, kind="stable")[:, :k]
    return rows, np.take_along_axis(likeness, rows, 1)


@cache
def world(kind: str = "tastes", at: float = FOREVER, users: int = 60) -> Split:
    events = {"tastes": tastes, "noise": noise}[kind](users=users, items=24, each=6)
    log = read_log([event for event in events if event.ts < at], SPACE)
    held_out = cases(read_log(events, SPACE), at, FOREVER)
    return Split(log, SPACE, SCHEMA, at, [case for case in held_out if case.user.interactions])


def learner(config: Config, split: Split | None = None, seed: int = 0) -> Learner:
    split = split or world()
    torch.manual_seed(seed)
    network = Network(config, len(split.items), split.content)
    model = LLMESR(SPACE, config, [node.item_id for node in split.items], network)
    return Learner(model, split, nearest)


def first_batch(found: Learner) -> Batch:
    return next(iter(found.batches(np.random.default_rng(0))))


def histories(network: Network) -> tuple[Tensor, Tensor]:
    """Of 5, 3 and 1 items."""
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    rows = torch.tensor([[3, 1, 4, 0, 5], [9, 2, 6, 0, 0], [8, 0, 0, 0, 0]])
    return network.items(rows).detach(), real


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_parameter_gets_a_gradient_and_the_teachers_none(backbone: str, switch: str) -> None:
    found = learner(replace(CONFIG, backbone=backbone, dropout=0.0, **SWITCHES[switch]))
    found.network.train()
    loss, count = found.loss(first_batch(found))
    loss.backward()
    assert count > 0
    network = found.model.network
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    if found.distillation is not None:
        assert [p for p in found.distillation.parameters() if p.requires_grad or p.grad is not None] == []


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_comes_after_a_question_changes_nothing_that_it_is_asked_of(backbone: str) -> None:
    network = learner(replace(CONFIG, backbone=backbone)).model.network.eval()
    x, real = histories(network)
    for t in range(4):
        at = torch.tensor([[0, t]])
        before = network(x, real, at)
        later = x.clone()
        later[:, t + 1 :] += torch.randn(later[:, t + 1 :].shape)
        assert close(before, network(later, real, at))
        now = x.clone()
        now[:, t] += 1.0
        assert not close(before, network(now, real, at))


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec"])
def test_the_views_meet_without_looking_ahead(backbone: str) -> None:
    network = learner(replace(CONFIG, backbone=backbone)).model.network.eval()
    x, real = histories(network)
    before = network._cross(*x.split(CONFIG.d, -1), real)
    later = x.clone()
    later[:, 3:] -= 7.0
    after = network._cross(*later.split(CONFIG.d, -1), real)
    for old, new in zip(before, after, strict=True):
        assert close(old[:, :3], new[:, :3])
        assert not close(old[0, 3:], new[0, 3:])


@pytest.mark.parametrize("switch", ["whole", "no sharing", "no cross-attention", "no co-view"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_neither_padding_nor_who_shares_the_batch_changes_a_user(backbone: str, switch: str) -> None:
    network = learner(replace(CONFIG, backbone=backbone, **SWITCHES[switch])).model.network.eval()
    x, real = histories(network)
    together = network.last(x, real)
    for row, length in enumerate((5, 3, 1)):
        assert close(together[row], network.last(x[row : row + 1, :length], real[row : row + 1, :length])[0])
    garbage = torch.where(real[:, :, None], x, torch.full_like(x, 1e3))
    assert close(together, network.last(garbage, real))


def test_each_switch_does_what_it_says() -> None:
    def parameters(**switch: Any) -> dict[str, int]:
        network = learner(replace(CONFIG, **switch)).model.network
        return {name: p.numel() for name, p in network.named_parameters()}

    def under(found: dict[str, int], prefix: str) -> int:
        return sum(count for name, count in found.items() if name.startswith(prefix))

    whole, d, items = parameters(), CONFIG.d, len(world().items)
    assert under(whole, "co.") == items * d
    assert under(whole, "adapter.") == (12 * d + d) + (d * d + d)  # 12 -> 8 -> 8
    unshared = parameters(shared_backbone=False)
    assert under(unshared, "encoders.") == 2 * under(whole, "encoders.")
    uncrossed = parameters(cross_attention=False)
    assert under(uncrossed, "to_") == 0 < under(whole, "to_")
    assert under(parameters(adapter_layers=1), "adapter.") == 12 * d + d
    assert under(parameters(co_view=False), "co.") == under(parameters(co_view=False), "to_") == 0
    assert under(parameters(se_view=False), "adapter.") == under(parameters(se_view=False), "to_") == 0
    assert learner(replace(CONFIG, se_view=False)).model.network.width == d
    assert learner(replace(CONFIG, distillation=False)).distillation is None


def test_without_what_reads_texts_none_is_read() -> None:
    class Unread(Split):
        @property
        def content(self) -> Tensor:  # type: ignore[override]
            raise AssertionError("a text was read")

    split = Unread(world().log, SPACE, SCHEMA)
    blind = replace(CONFIG, se_view=False, pca_start=False, distillation=False, epochs=1)
    fit(split, blind, Run(similar=nearest))
    for read in ("se_view", "pca_start", "distillation"):
        with pytest.raises(AssertionError, match="a text was read"):
            fit(split, replace(blind, **{read: True}), Run(similar=nearest))


def test_without_the_se_view_the_network_holds_no_text() -> None:
    network = learner(replace(CONFIG, se_view=False)).model.network
    assert network.text.numel() == 0
    assert network.items().shape == (len(world().items), CONFIG.d)


def test_a_log_without_any_text_is_fitted_too() -> None:
    events = [event for event in tastes(users=20, items=12, each=3) if isinstance(event, Interaction)]
    split = Split(read_log(events, SPACE), SPACE, SCHEMA)
    fitted = fit(
        split, replace(CONFIG, epochs=1), Run(similar=lambda v, k: (np.full((len(v), k), -1), np.zeros((len(v), k))))
    )
    assert torch.isfinite(fitted.scorer(cases(split.log, START, FOREVER)[:4])).all()


def test_the_texts_are_frozen() -> None:
    found = learner(CONFIG)
    before = found.model.network.text.clone()
    training.learn(found, training.Options(epochs=1, learning_rate=0.1), Run())
    assert torch.equal(found.model.network.text, before)


def test_the_co_view_starts_where_the_principal_components_put_it() -> None:
    split = world()
    network = Network(CONFIG, len(split.items), split.content)
    centred = split.content - split.content.mean(0)
    of_rows, of_texts = network.co.weight.detach(), centred
    kept = torch.linalg.svdvals(centred)[:8].square().sum()
    assert close(of_rows.square().sum(), kept)  # no 8 directions hold more of the texts
    assert close(of_rows.T @ of_rows, torch.diag((of_rows.T @ of_rows).diagonal()))
    assert close(of_rows, network.by_text(of_texts + split.content.mean(0)).detach())
    torch.manual_seed(0)
    by_chance = Network(replace(CONFIG, pca_start=False), len(split.items), split.content)
    assert not close(by_chance.co.weight, of_rows)
    assert by_chance.components.abs().sum() == 0


def test_an_item_without_a_text_starts_by_chance_and_beyond_the_components_all_do() -> None:
    content = world().content.clone()
    content[3] = 0.0
    network = Network(replace(CONFIG, d=16, heads=1), len(content), content)  # 12 components at most
    rows = network.co.weight.detach()
    assert (rows[3] != 0).all()
    assert (rows[:, 12:] != 0).all()
    assert close(rows[4, :12], network.by_text(content)[4, :12])


def test_an_attention_or_a_view_that_is_not_there_is_said() -> None:
    with pytest.raises(ValueError, match="without any view"):
        fit(world(), replace(CONFIG, co_view=False, se_view=False), Run(similar=nearest))
    with pytest.raises(ValueError, match="vector index"):
        fit(world(), CONFIG, Run())
    with pytest.raises(ValueError, match="neither softmax nor bce"):
        fit(world(), replace(CONFIG, loss="hinge"), Run(similar=nearest))


def test_similar_users_are_asked_for_once_by_the_mean_of_their_texts() -> None:
    asked: list[tuple[Any, int]] = []

    def similar(vectors: Any, k: int) -> tuple[Any, Any]:
        asked.append((vectors, k))
        return nearest(vectors, k)

    fit(world(), replace(CONFIG, epochs=2), Run(similar=similar))
    assert len(asked) == 1
    assert asked[0][1] == 3
    assert np.allclose(asked[0][0], semantic_users(world().content, world().sequences))


def test_only_users_with_short_histories_learn_from_others_unless_all_are_to() -> None:
    events = [*tastes(users=30, items=24, each=4)]
    events += [interaction("u0", f"i{i}", START + i * DAY) for i in range(1, 24, 2)]
    split = Split(read_log(events, SPACE), SPACE, SCHEMA)
    tail = learner(CONFIG, split).distillation
    everybody = learner(replace(CONFIG, tail_only=False), split).distillation
    assert tail is not None
    assert everybody is not None
    longest = split.sequences.users.index("u0")
    assert not tail_users(split.sequences)[longest]
    assert tail.strength[longest] == 0 < everybody.strength[longest]
    assert (tail.strength > 0).sum() == len(split.sequences) - 1


@pytest.mark.parametrize("backbone", BACKBONES)
def test_distillation_asks_the_teacher_for_whole_histories_as_serving_would(backbone: str) -> None:
    found = learner(replace(CONFIG, backbone=backbone))
    split, model = found.split, found.model
    users = torch.tensor([4, 0, 7])
    states = [
        fold_user(UserState(user_id), [fact for _, fact in split.log.by_user[user_id]])
        for user_id in (split.sequences.users[user] for user in users.tolist())
    ]
    table = model.encode_items(split.items)
    served = model.encode_users(states, table, NOW)
    with torch.no_grad():
        assert close(found._of_users(model.network.eval(), users), served)


def test_what_is_distilled_is_each_users_newest_question(monkeypatch: pytest.MonkeyPatch) -> None:
    found = learner(replace(CONFIG, dropout=0.0))
    found.network.eval()
    batch = first_batch(found)
    seen: list[Tensor] = []
    monkeypatch.setattr(found.distillation, "forward", lambda u, users: seen.append(u) or u.sum() * 0)
    found.loss(batch)
    with torch.no_grad():
        for row in range(len(batch.users)):
            column = int(batch.asked[batch.asked[:, 0] == row, 1].max())
            x = found.model.network.items(batch.history[row : row + 1, : column + 1])
            assert close(seen[0][row], found.model.network.last(x, torch.ones(1, column + 1, dtype=torch.bool))[0])


def test_distillation_makes_users_alike_more_alike() -> None:
    def distance(alpha: float) -> float:
        fitted = fit(
            world(), replace(CONFIG, alpha=alpha, epochs=6, dropout=0.0, ema=0.5, tail_only=False), Run(similar=nearest)
        )
        rows, _ = nearest(semantic_users(world().content, world().sequences), 3)
        found = Learner(fitted.model, world(), nearest)
        with torch.no_grad():
            u = found._of_users(fitted.model.network.eval(), torch.arange(len(rows)))
        return float((u - u[torch.from_numpy(rows)].mean(1)).norm(dim=1).mean())

    assert distance(30.0) < 0.8 * distance(0.0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_fit_is_the_same_twice_and_another_with_another_seed(backbone: str) -> None:
    def scores(seed: int) -> Tensor:
        config = replace(CONFIG, backbone=backbone, epochs=2)
        split = world("tastes", LATE)
        return fit(split, config, Run(seed=seed, similar=nearest)).scorer(split.held_out[:5])

    assert torch.equal(scores(1), scores(1))
    assert not torch.equal(scores(1), scores(2))


def test_a_killed_fit_goes_on_to_the_same_result(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def die(epoch: int, loss: float, reached: float) -> None:
        if epoch == 3:
            raise Killed

    config, split = replace(CONFIG, epochs=4, refresh=3), world("tastes", LATE)
    whole = fit(split, config, Run(similar=nearest))
    with pytest.raises(Killed):
        fit(split, config, Run(similar=nearest, checkpoint=tmp_path, report=die))
    rest = fit(split, config, Run(similar=nearest, checkpoint=tmp_path))
    assert rest.curve == whole.curve
    assert torch.equal(rest.scorer(split.held_out[:5]), whole.scorer(split.held_out[:5]))


def hit_rate(split: Split, epochs: int, **switch: Any) -> tuple[float, float, int]:
    """HR@10 on what is held out, what chance would reach, and over how many targets."""
    config = replace(CONFIG, learning_rate=0.01, dropout=0.1, **switch)
    fitted = fit(replace(split, held_out=()), config, Run(similar=nearest, chosen={"epochs": epochs}))
    reached = evaluate(fitted.scorer, split.held_out, split.row_of, split.counts.tolist())["hr@10"]
    left = [len(split.items) - len(case.user.interactions) for case in split.held_out for _ in case.targets]
    return reached, float(np.mean([10 / items for items in left])), len(left)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_taste_is_learnt(backbone: str) -> None:
    reached, chance, _ = hit_rate(world("tastes", LATE), 12, backbone=backbone)
    assert reached > chance + 0.25


def test_noise_is_not_learnt() -> None:
    reached, chance, targets = hit_rate(world("noise", LATE, users=300), 5)
    assert abs(reached - chance) < 3 * (chance * (1 - chance) / targets) ** 0.5 < 0.12


def test_the_sampled_loss_is_learnt_from_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.models.llmesr.FULL_SOFTMAX_ITEMS", 10)
    reached, chance, _ = hit_rate(world("tastes", LATE), 12)
    assert reached > chance + 0.2


@pytest.fixture
def model() -> LLMESR:
    return learner(CONFIG).model


def test_the_table_that_is_served_scores_as_the_one_that_was_trained(model: LLMESR) -> None:
    split = world()
    users = [fold_user(UserState(u), [fact for _, fact in split.log.by_user[u]]) for u in ("u0", "u1")]
    table = model.encode_items(split.items)
    trained = model.network.items().detach()
    assert close(table.vectors, trained)
    assert (table.bias == 0).all()
    found = [case for case in cases(split.log, START, FOREVER) if case.user.interactions][:9]
    served = score(model.encode_users([case.user for case in found], table, NOW), table)
    assert close(served, model.scorer(split)(found))
    assert model.encode_users(users, table, NOW).shape == (2, 16)


def test_a_new_item_stands_where_its_text_does_in_both_views(model: LLMESR) -> None:
    known = world().items[2]
    like_it = ItemNode("like it", semantics=known.semantics)
    other = fold_item(ItemNode("other"), [semantics("other", bytes(range(20, 32)))])
    nothing = ItemNode("nothing is known")
    table = model.encode_items([known, like_it, other, nothing])
    assert close(table.vectors[0], table.vectors[1])  # at the start, before training moves the rows that it knows
    assert not close(table.vectors[1], table.vectors[2])
    text = torch.from_numpy(content_of(other, 12))[None]
    assert close(table.vectors[2, 8:], model.network.adapter(text)[0].detach())
    assert (table.vectors[3, :8] == 0).all()
    alone = model.encode_items([other])
    assert close(alone.vectors[0], table.vectors[2])


@pytest.mark.parametrize("switch", ["whole", "no co-view", "no se-view", "no sharing", "random start"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_saved_model_scores_the_same_when_loaded(backbone: str, switch: str, tmp_path: Path) -> None:
    model = learner(replace(CONFIG, backbone=backbone, **SWITCHES[switch])).model
    model.save(tmp_path)
    loaded = contract.load(tmp_path)
    assert (loaded.kind, loaded.space) == ("llmesr", SPACE)
    nodes = [*world().items, ItemNode("new", semantics=world().items[5].semantics)]
    users = [case.user for case in cases(world().log, START, FOREVER)[-5:]]
    table, again = model.encode_items(nodes), loaded.encode_items(nodes)
    assert torch.equal(table.vectors, again.vectors)
    assert torch.equal(model.encode_users(users, table, NOW), loaded.encode_users(users, again, NOW))


def test_who_has_met_nothing_scores_as_the_bias_does_and_one_click_changes_it(model: LLMESR) -> None:
    table = model.encode_items(world().items)
    nobody = UserState("nobody")
    strange = fold_user(nobody, [interaction("nobody", "an item that is not in the table", NOW)])
    assert (model.encode_users([nobody, strange], table, NOW) == 0).all()
    clicked: Interaction = interaction("nobody", "i3", NOW)
    assert model.encode_users([fold_user(nobody, [clicked])], table, NOW).abs().sum() > 0
    assert model.encode_users([], table, NOW).shape == (0, 16)
    assert model.encode_users([nobody], ItemTable([], torch.zeros(0, 16), torch.zeros(0)), NOW).shape == (1, 16)
    assert model.encode_items([]).vectors.shape == (0, 16)


def test_only_what_is_served_is_counted_as_the_models_parameters() -> None:
    split = world()
    taught = fit(split, replace(CONFIG, epochs=1), Run(similar=nearest))
    untaught = fit(split, replace(CONFIG, epochs=1, distillation=False), Run(similar=nearest))
    assert taught.parameters == untaught.parameters == sum(p.numel() for p in taught.model.network.parameters())
    assert isinstance(taught.model.network, nn.Module)
