"""FineRec: what models.md 0.4 asks of a model, and that every switch does what it says."""

import math
import random
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared.events import Event, Interaction, Opinions
from shared.graph.fold import fold_user
from shared.graph.state import UserState
from shared.models.dataset import Case, cases, read_log
from shared.models.evaluation import Result, evaluate
from shared.models.finerec import Batch, Config, FineRec, Learner, batches_of, fit
from shared.models.finerec_graph import Graph, Nodes, alike, facts_of
from shared.models.fitting import Fitted, Run
from shared.models.split import FOREVER, Split
from shared.space import dequantise
from tests.shared.models.worlds import DAY, SCHEMA, SPACE, START, interaction, noise, opinions, tastes

EVENTS = tastes(users=40, items=24, each=6)
MIDDLE = START + 150 * DAY
END = START + 300 * DAY
SMALL = Config(d=16, windows=3, epochs=2, batch=64, longest=8)
ABLATIONS = {
    "full": SMALL,
    "plain mean": replace(SMALL, convolution=False),
    "concatenation": replace(SMALL, fusion=False),
    "no opinions": replace(SMALL, opinions=False),
    "one attribute": replace(SMALL, attributes=1),
    "popularity": replace(SMALL, popularity=True),
    "neither": replace(SMALL, convolution=False, fusion=False),
}


def split_of(events: list[Event], held_out_from: float = FOREVER) -> Split:
    log = read_log([event for event in events if event.ts < held_out_from], SPACE)
    held_out = cases(read_log(events, SPACE), held_out_from, FOREVER)
    return Split(log, SPACE, SCHEMA, held_out=[case for case in held_out if case.user.interactions])


def learner(config: Config = SMALL, events: list[Event] = EVENTS, seed: int = 1) -> Learner:
    return Learner(split_of(events), config, Run(seed=seed))


def at(split: Split, ts: float) -> list[Case]:
    """Every user of the log as of just before `ts`."""
    states = [
        fold_user(UserState(user_id), [fact for when, fact in facts if when < ts])
        for user_id, facts in sorted(split.log.by_user.items())
    ]
    return [Case(ts, state, ("i0",)) for state in states]


def silent(config: Config) -> set[str]:
    """Parameters that no question of an epoch gives a gradient."""
    learning = learner(config)
    learning.network.train()
    for batch in learning.batches(np.random.default_rng(0)):
        learning.loss(batch)[0].backward()
    named = learning.network.named_parameters()
    return {name for name, p in named if p.grad is None or not p.grad.abs().sum() > 0}


# --- gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    assert silent(ABLATIONS[name]) == set()


def test_the_public_codes_stop_gradients_leave_its_convolution_and_attention_untrained() -> None:
    names = {name for name, _ in learner().network.named_parameters()}
    untrained = {name for name in names if name == "attribute" or name.startswith("of_") or ".g." in name}
    assert silent(replace(SMALL, faithful=True)) == untrained
    trained = {name.split(".")[0] + ("." + name.split(".")[1] if "." in name else "") for name in names - untrained}
    assert trained == {"users", "items", "fuse_users.h", "fuse_items.h"}


# --- opinions -------------------------------------------------------------------------------------------


def said_in(events: list[Event], split: Split) -> Counter[tuple[int, int, int, bytes]]:
    users = {user_id: row for row, user_id in enumerate(sorted(split.log.by_user))}
    return Counter(
        (
            users[e.user_id],
            split.row_of[e.item_id],
            SCHEMA.attributes.index(p.attribute),
            dequantise(p.vector).tobytes(),
        )
        for e in events
        if isinstance(e, Opinions)
        for p in e.pairs
    )


def said_by(model: FineRec) -> Counter[tuple[int, int, int, bytes]]:
    nodes = model.graph.users
    return Counter(
        (int(u), int(i), int(a), o.numpy().tobytes())
        for u, i, a, o in zip(nodes.said_node, nodes.said_of, nodes.attribute, nodes.opinion, strict=True)
    )


def test_the_models_opinions_are_the_logs_after_initialisation_and_training() -> None:
    split = split_of(EVENTS)
    assert said_by(fit(split, SMALL, Run(chosen={"epochs": 1})).model) == said_in(EVENTS, split)


def test_the_public_codes_opinions_are_noise() -> None:
    split = split_of(EVENTS)
    model = fit(split, replace(SMALL, faithful=True), Run(chosen={"epochs": 0})).model
    noisy, said = said_by(model), said_in(EVENTS, split)
    assert {key[:3] for key in noisy} == {key[:3] for key in said}
    assert not noisy.keys() & said.keys()
    assert model.facts.opinion.abs().max() <= SMALL.d**-0.5


def test_an_edited_review_says_its_newest_version_known_by_then() -> None:
    rng = random.Random(0)
    old, new = (opinions(rng, "u0", "i0", START + days * DAY, pairs=2) for days in (1, 5))
    facts = facts_of(split_of([interaction("u0", "i0", START), old, new]))
    for ts, held in ((START + DAY, None), (START + 5 * DAY, old), (START + 5 * DAY + 1, new), (FOREVER, new)):
        found = [tuple(row) for row in facts.before(ts, 5).items.opinion.tolist()]
        expected = [tuple(dequantise(pair.vector).tolist()) for pair in held.pairs] if held else []
        assert sorted(found) == sorted(expected)


def test_a_review_logged_twice_counts_once() -> None:
    doubled = [*EVENTS, *(event for event in EVENTS if isinstance(event, Opinions))]
    once, twice = (facts_of(split_of(events)) for events in (EVENTS, doubled))
    assert once.said.tolist() == twice.said.tolist()


# --- time -----------------------------------------------------------------------------------------------


def later() -> list[Event]:
    """What known users do with known items from MIDDLE on, edits of earlier reviews among it."""
    rng = random.Random(5)
    events: list[Event] = []
    for n in range(120):
        user, item, ts = f"u{rng.randrange(40)}", f"i{rng.randrange(24)}", MIDDLE + n * DAY
        events += [interaction(user, item, ts), opinions(rng, user, item, ts)]
    edited = [event for event in EVENTS if isinstance(event, Opinions) and event.ts < MIDDLE]
    return events + [opinions(rng, event.user_id, event.item_id, MIDDLE) for event in edited]


def test_facts_of_the_future_change_no_score() -> None:
    before, after = split_of(EVENTS), split_of([*EVENTS, *later()])
    network = learner().network.eval()
    for ts, same in ((START + 60 * DAY, True), (MIDDLE, True), (MIDDLE + 30 * DAY, False)):
        scores = []
        for split in (before, after):
            facts = facts_of(split)
            asked = facts.asked(at(split, ts), ts, SCHEMA, 8, 20)
            users, items, _ = network(facts.before(ts, 20), asked)
            scores.append(users @ items.T)
        assert torch.equal(*scores) == same


def label_edges(batches: list[Batch]) -> tuple[int, int]:
    """How many questions of the batches find their own answer: in the graph, and in what the asker had met or said."""
    graph, own = 0, 0
    for batch in batches:
        users = batch.asked.row[batch.asker].tolist()
        met, said = batch.graph.users, batch.graph.users
        known = set(zip(met.met_node.tolist(), met.met.tolist(), strict=True))
        known |= set(zip(said.said_node.tolist(), said.said_of.tolist(), strict=True))
        graph += sum(pair in known for pair in zip(users, batch.targets.tolist(), strict=True))
        asked = batch.asked
        mine = set(zip(asked.met_node.tolist(), asked.met.tolist(), strict=True))
        mine |= set(zip(asked.said_node.tolist(), asked.said_of.tolist(), strict=True))
        own += sum(pair in mine for pair in zip(batch.asker.tolist(), batch.targets.tolist(), strict=True))
    return graph, own


def test_no_question_finds_its_own_answer_but_in_the_public_code() -> None:
    split = split_of(EVENTS)
    facts = facts_of(split)
    questions = len(split.sequences.asked_for)
    batches = batches_of(facts, split, SMALL, "cpu")
    assert sum(len(batch.targets) for batch in batches) == questions
    assert label_edges(batches) == (0, 0)
    faithful = batches_of(facts, split, replace(SMALL, faithful=True), "cpu")
    assert label_edges(faithful) == (questions, 0)


def test_a_windows_graph_ends_where_the_window_starts() -> None:
    split = split_of(EVENTS)
    met = [event for event in EVENTS if isinstance(event, Interaction)]
    seen = set()
    for batch in batches_of(facts_of(split), split, replace(SMALL, windows=4, batch=1000), "cpu"):
        users = dict(enumerate(sorted(split.log.by_user)))
        asked = [(users[int(batch.asked.row[n])], int(t)) for n, t in zip(batch.asker, batch.targets, strict=True)]
        start = min(e.ts for e in met if (e.user_id, split.row_of[e.item_id]) in asked)
        assert len(batch.graph.users.met) == sum(e.ts < start for e in met)
        assert batch.graph.counts.sum() == len(batch.graph.items.met)
        seen.add(len(batch.graph.users.met))
    assert len(seen) == 4


# --- invariance -----------------------------------------------------------------------------------------


def test_a_users_scores_do_not_depend_on_who_shares_the_batch() -> None:
    model = learner().model
    asked = at(split_of(EVENTS), END)
    together = model.score(asked)
    for row in (0, 7, 39):
        assert torch.allclose(model.score([asked[row]])[0], together[row], atol=1e-6)
    assert not torch.allclose(together[0], together[7], atol=1e-4)


def shuffled(nodes: Nodes, seed: int) -> Nodes:
    generator = torch.Generator().manual_seed(seed)
    lists = (("said_node", "said_of", "attribute", "opinion"), ("met_node", "met"), ("peer_node", "peer", "common"))
    changed: dict[str, Tensor] = {}
    for names in lists:
        order = torch.randperm(len(getattr(nodes, names[0])), generator=generator)
        changed |= {name: getattr(nodes, name)[order] for name in names}
    return replace(nodes, **changed)


def test_the_order_of_the_edges_changes_nothing() -> None:
    learning = learner()
    network, graph = learning.network.eval(), learning.model.graph
    asked = learning.model.facts.asked(at(split_of(EVENTS), END), END, SCHEMA, 8, 20)
    other = Graph(shuffled(graph.users, 1), shuffled(graph.items, 2), graph.counts)
    assert not torch.equal(other.users.said_of, graph.users.said_of)
    for one, two in zip(network(graph, asked), network(other, shuffled(asked, 3)), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_the_same_seed_gives_the_same_scores_and_another_seed_others() -> None:
    split = split_of(EVENTS, MIDDLE)
    one, two, three = (fit(split, SMALL, Run(seed=seed)).scorer(split.held_out) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.allclose(one, three, atol=1e-3)


def test_a_fit_that_was_killed_goes_on_to_the_same_scores(tmp_path: Path) -> None:
    split = split_of(EVENTS, MIDDLE)
    config = replace(SMALL, epochs=3, patience=3)
    whole = fit(split, config, Run()).scorer(split.held_out)

    def killed(epoch: int, loss: float, reached: float) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(split, config, Run(checkpoint=tmp_path, report=killed))
    epochs: list[int] = []
    resumed = fit(split, config, Run(checkpoint=tmp_path, report=lambda epoch, *_: epochs.append(epoch)))
    assert epochs == [3]
    assert torch.equal(resumed.scorer(split.held_out), whole)


# --- what is learnt -------------------------------------------------------------------------------------


def reached(events: list[Event], config: Config) -> Result:
    split = split_of(events, START + 220 * DAY)
    model = fit(split, config, Run())
    return evaluate(model.scorer, split.held_out, split.row_of, split.counts.tolist())


LEARNING = replace(SMALL, d=32, epochs=8, patience=8, learning_rate=0.01)


def test_of_noise_nothing_is_learnt() -> None:
    result = reached(noise(users=80, items=60), LEARNING)
    chance = 10 / (60 - 6)  # about: what a user has met is masked
    error = math.sqrt(chance * (1 - chance) / result["targets"])
    assert result["targets"] > 100
    assert abs(result["hr@10"] - chance) < 4 * error


def test_of_tastes_more_than_popularity_is_learnt() -> None:
    result = reached(tastes(users=80, items=60), LEARNING)
    assert result["hr@10"] > 2 * 10 / (60 - 6)


def test_a_user_that_the_log_does_not_know_is_ranked_by_what_they_met() -> None:
    model = learner().model
    nobody = UserState("nobody")
    met = fold_user(nobody, [interaction("nobody", "i3", END)])
    scores = model.score([Case(END, nobody, ()), Case(END, met, ())])
    assert scores.isfinite().all()
    assert not torch.allclose(scores[0], scores[1], atol=1e-4)


def test_a_log_without_opinions_is_learnt_from_who_met_what() -> None:
    events = [event for event in tastes(users=80, items=60) if not isinstance(event, Opinions)]
    assert reached(events, LEARNING)["hr@10"] > 2 * 10 / (60 - 6)


# --- the switches ---------------------------------------------------------------------------------------


def convolved(learning: Learner, graph: Graph) -> Tensor:
    network = learning.network.eval()
    table = torch.cat([network.users, network.users.mean(0, keepdim=True)]).detach()
    out: Tensor = network.of_items(network.items, table, graph.items, network.attribute)
    return out.detach()


@pytest.mark.parametrize("convolution", [True, False])
@pytest.mark.parametrize("said", [True, False])
def test_the_convolution_is_what_its_formula_says(convolution: bool, said: bool) -> None:
    learning = learner(replace(SMALL, convolution=convolution, opinions=said))
    network, nodes = learning.network, learning.model.graph.items
    users, items = (torch.nn.init.normal_(table.data) for table in (network.users, network.items))
    got = convolved(learning, learning.model.graph)
    checked = 0
    for item, a in ((i, a) for i in range(6) for a in range(3)):
        own = items[item, a]
        mine = ((nodes.said_node == item) & (nodes.attribute == a)).nonzero()[:, 0]
        u = users[nodes.said_of[mine], a]
        v = u + nodes.opinion[mine] if said else u
        weight = torch.full((len(mine),), 1 / max(1, len(mine)))
        if convolution:
            f = network.of_items
            q = torch.tanh(own @ f.q.weight[a] + f.q.bias[a])
            k = torch.tanh((network.attribute[a] + u) @ f.k.weight[a] + f.k.bias[a])
            v = torch.tanh(v @ f.v.weight[a] + f.v.bias[a])
            weight = torch.softmax(k @ q / SCHEMA.opinion_dim**0.5, 0)
        assert torch.allclose(got[item, a], own + weight @ v, atol=1e-5)
        checked += len(mine) > 1
    assert checked > 3


@pytest.mark.parametrize("said", [True, False])
def test_what_was_said_counts_only_with_opinions(said: bool) -> None:
    learning = learner(replace(SMALL, opinions=said))
    graph = learning.model.graph
    changed = replace(graph, items=replace(graph.items, opinion=-graph.items.opinion))
    assert torch.equal(convolved(learning, graph), convolved(learning, changed)) != said


def test_without_fusion_the_attributes_side_by_side_are_scored() -> None:
    learning = learner(replace(SMALL, fusion=False))
    assert not [name for name, _ in learning.network.named_parameters() if name.startswith("fuse")]
    encoded = learning.network.eval().encode(learning.model.graph)
    assert torch.allclose(encoded.items, convolved(learning, learning.model.graph).flatten(1))
    assert learner().network.encode(learning.model.graph).items.shape == (24, SMALL.d)


@pytest.mark.parametrize("faithful", [True, False])
def test_the_fusion_is_what_its_formula_says(faithful: bool) -> None:
    network = learner(replace(SMALL, faithful=faithful)).network.eval()
    fusion = network.fuse_items
    own, other, nodes = torch.randn(24, 12), torch.randn(41, 12), learner().model.graph.items
    got = fusion(own, other, own, nodes)
    for item in (0, 11):
        g = fusion.g(other[nodes.met[nodes.met_node == item]])
        mine = nodes.peer_node == item
        peers, common = own[nodes.peer[mine]], nodes.common[mine]
        if faithful:
            fused = (g @ own[item]) @ g + peers.sum(0)
        else:
            fused = torch.softmax(g @ own[item] / 12**0.5, 0) @ g + common @ peers / common.sum()
        assert torch.allclose(got[item], fusion.h(own[item] + 0.5 * fused), atol=1e-5)


def test_the_n_most_frequent_attributes_are_kept() -> None:
    split = split_of(EVENTS)
    frequent = Counter(a for _, _, a, _ in said_in(EVENTS, split).elements()).most_common()
    assert len({count for _, count in frequent}) == 3
    for n in (1, 2, 3):
        facts = facts_of(split, n)
        assert {a for a, place in enumerate(facts.place) if place >= 0} == {a for a, _ in frequent[:n]}
        assert len(facts.said) == sum(count for _, count in frequent[:n])
        asked = facts.asked(at(split, FOREVER), FOREVER, SCHEMA, 8, 20)
        assert len(asked.said_node) == len(facts.said)
        assert learner(replace(SMALL, attributes=n)).network.items.shape == (24, n, 4)


def test_popularity_adds_the_log_of_who_met_the_item_by_then() -> None:
    learning = learner(replace(SMALL, popularity=True))
    graph = learning.model.facts.before(MIDDLE, 20)
    met = Counter(e.item_id for e in EVENTS if isinstance(e, Interaction) and e.ts < MIDDLE)
    expected = torch.tensor([math.log1p(met[item]) for item in learning.model.facts.items])
    assert torch.allclose(learning.network.encode(graph).bias, expected)
    assert not learner().network.encode(graph).bias.any()


def test_last_only_asks_one_question_a_user() -> None:
    split = split_of(EVENTS)
    batches = batches_of(facts_of(split), split, replace(SMALL, last_only=True), "cpu")
    rows = [row for batch in batches for row in batch.asked.row.tolist()]
    last = {case.user.user_id: case.targets for case in split.training if case.user.interactions}
    assert sorted(rows) == list(range(40))
    users = sorted(split.log.by_user)
    for batch in batches:
        for asker, target in zip(batch.asker, batch.targets, strict=True):
            assert split.items[int(target)].item_id in last[users[int(batch.asked.row[asker])]]


# --- who met the same -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 5)), max_size=30), st.integers(1, 4))
def test_who_met_the_same_are_those_with_the_most_in_common(pairs: set[tuple[int, int]], most: int) -> None:
    met = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    together = np.zeros((8, 6))
    together[met[:, 0], met[:, 1]] = 1
    together = together @ together.T
    np.fill_diagonal(together, 0)
    node, other, common = alike(met[:, 0], met[:, 1], met[:, 0], met[:, 1], most)
    for row in range(8):
        best = sorted((-n, at) for at, n in enumerate(together[row]) if n)[:most]
        mine = node == row
        assert list(zip((-common[mine]).tolist(), other[mine].tolist(), strict=True)) == best


def test_a_batch_can_be_parted_between_processes() -> None:
    batch = learner().model and batches_of(facts_of(split_of(EVENTS)), split_of(EVENTS), SMALL, "cpu")[0]
    parts = [batch.share(rank, 2) for rank in (0, 1)]
    assert sum(len(part.targets) for part in parts) == len(batch.targets)
    assert sorted(torch.cat([part.targets for part in parts]).tolist()) == sorted(batch.targets.tolist())
    for field in fields(Nodes):
        assert torch.equal(getattr(parts[1].asked, field.name), getattr(batch.asked, field.name))


def test_a_fit_chooses_its_epochs_on_what_is_held_out() -> None:
    split = split_of(noise(users=40, items=24, each=6), MIDDLE)
    fitted: Fitted = fit(split, replace(SMALL, epochs=6, patience=6, learning_rate=0.05), Run())
    best = max(fitted.curve, key=lambda point: point[2])
    assert fitted.chosen["epochs"] == best[0] < len(fitted.curve)  # so the last weights are not the best ones
    result = evaluate(fitted.scorer, split.held_out, split.row_of, split.counts.tolist())
    assert result["ndcg@10"] == pytest.approx(best[2])
