"""The loss over a whole catalogue, and that its estimate from few negatives has hardly any bias."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared.models import fused_softmax, softmax
from shared.models.fused_softmax import fused_loss
from shared.models.softmax import sampled_loss, softmax_loss, target_share

N, D, Q = 300, 8, 40


@pytest.fixture
def parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    share = torch.softmax(2.0 * torch.randn(N, generator=g), 0)  # some items are asked for much more than others
    table = torch.randn(N, D, generator=g) * 0.7
    return torch.randn(Q, D, generator=g), table, 0.5 * share.log(), share


def test_it_is_cross_entropy_over_all_items(parts: tuple[Tensor, ...]) -> None:
    users, table, bias, _ = parts
    targets = torch.arange(Q)
    expected = F.cross_entropy(users @ table.T + bias, targets)
    torch.testing.assert_close(softmax_loss(users, table, bias, targets), expected)
    weights = torch.arange(Q).float()
    each = F.cross_entropy(users @ table.T + bias, targets, reduction="none")
    torch.testing.assert_close(
        softmax_loss(users, table, bias, targets, weights=weights), (each * weights).sum() / weights.sum()
    )
    assert float(softmax_loss(users[:0], table, None, targets[:0])) == 0.0


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_many_questions_are_answered_in_parts_to_the_same_loss(
    parts: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch, biased: bool, weighted: bool
) -> None:
    users, table, bias, _ = parts
    weights = torch.rand(Q, generator=torch.Generator().manual_seed(1)) if weighted else None
    got = []
    for held in (1 << 28, 1):
        monkeypatch.setattr(fused_softmax, "HELD", {"cpu": held})
        monkeypatch.setattr(fused_softmax, "AT_ONCE", {"cpu": N * 7})
        leaves = [leaf.clone().requires_grad_() for leaf in (users, table, bias)]
        loss = softmax_loss(leaves[0], leaves[1], leaves[2] if biased else None, torch.arange(Q), weights=weights)
        (3 * loss).backward()
        got.append([loss.detach(), *(leaf.grad for leaf in leaves[: 2 + biased])])
    torch.testing.assert_close(got[0], got[1])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(2, 12), st.integers(1, 40))
def test_the_fused_loss_is_that_of_all_logits_whoever_asks_and_whatever_is_masked(
    data: st.DataObject, b: int, n: int, at_once: int
) -> None:
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    leaves = [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((b, 4), (n, 4), (n,))]
    asks = data.draw(st.lists(st.tuples(st.integers(0, b - 1), st.integers(0, n - 1)), min_size=1, max_size=20))
    met = data.draw(st.lists(st.tuples(st.integers(0, b - 1), st.integers(0, n - 1)), max_size=20))
    asker, target = torch.tensor(asks).T
    user, item = torch.tensor([pair for pair in met if pair not in asks], dtype=torch.int64).reshape(-1, 2).T

    def graded(fused: bool) -> list[Tensor | None]:
        u, v, bias = (leaf.clone().requires_grad_() for leaf in leaves)
        if fused:
            loss = fused_loss(u, v, bias, asker, target, masked=(user, item))
        else:
            logits = (u @ v.T + bias).index_put((user, item), torch.tensor(-torch.inf, dtype=torch.float64))
            loss = -torch.log_softmax(logits, 1)[asker, target].mean()
        loss.backward()
        return [loss.detach().float(), u.grad, v.grad, bias.grad]

    with patch.object(fused_softmax, "AT_ONCE", {"cpu": at_once}):
        torch.testing.assert_close(graded(True), graded(False), rtol=1e-4, atol=1e-5)


def test_the_fused_loss_is_the_same_where_nothing_is_learnt_and_close_in_half_precision(
    parts: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    users, table, bias, _ = parts
    monkeypatch.setattr(fused_softmax, "AT_ONCE", {"cpu": N * 7})
    asker = target = torch.arange(Q)
    exact = fused_loss(users, table, bias, asker, target)
    with torch.no_grad():
        assert torch.equal(fused_loss(users, table, bias, asker, target), exact)
    leaf = users.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = fused_loss(leaf, table, bias, asker, target)
    rounded.backward()
    assert rounded.dtype == torch.float32
    assert float(rounded.detach()) == pytest.approx(float(exact), rel=0.01)
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.float32


def test_a_large_catalogue_is_sampled(parts: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    users, table, bias, share = parts
    asked: list[int] = []
    monkeypatch.setattr(softmax, "FULL_SOFTMAX_ITEMS", N - 1)
    monkeypatch.setattr(softmax, "sampled_loss", lambda *a, **_: asked.append(a[2]) or torch.zeros(()))
    softmax_loss(users, table, bias, torch.arange(Q), share=share)
    assert asked == [N]


def estimates(
    parts: tuple[Tensor, ...], in_batch: bool, uniform: int = 240, trials: int = 600
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and table gradient of one question among others whose targets are drawn: estimated in the mean, and exact."""
    users, table, bias, share = parts
    torch.manual_seed(0)
    weights = F.one_hot(torch.tensor(0), Q).float()
    leaf = table.clone().requires_grad_()
    total = torch.zeros(())
    for _ in range(trials):
        targets = torch.multinomial(share, Q, replacement=True)
        targets[0] = 5
        total = total + sampled_loss(
            users, lambda at: (leaf[at], bias[at]), N, targets,
            share=share if in_batch else None, weights=weights, uniform=uniform,
        )  # fmt: skip
    (total / trials).backward()
    exact = table.clone().requires_grad_()
    loss = softmax_loss(users[:1], exact, bias, torch.tensor([5]))
    loss.backward()
    assert leaf.grad is not None
    assert exact.grad is not None
    return total.detach() / trials, leaf.grad, loss.detach(), exact.grad


@pytest.mark.parametrize("in_batch", [True, False])
def test_the_estimate_and_its_gradient_have_hardly_any_bias(parts: tuple[Tensor, ...], in_batch: bool) -> None:
    loss, gradient, exact, exact_gradient = estimates(parts, in_batch)
    assert float(loss) == pytest.approx(float(exact), abs=0.05)
    assert float((gradient - exact_gradient).norm() / exact_gradient.norm()) < 0.03


def test_a_negative_that_is_the_target_does_not_count(parts: tuple[Tensor, ...]) -> None:
    users, table, _, _ = parts
    targets = torch.full((Q,), 7)
    share = F.one_hot(torch.tensor(7), N).float()  # every negative of the batch is the target of every question
    loss = sampled_loss(users, lambda at: (table[at], None), N, targets, share=share, uniform=0)
    assert float(loss) == 0.0


def test_questions_of_one_row_are_not_each_others_negatives(parts: tuple[Tensor, ...]) -> None:
    users, table, _, share = parts
    targets = torch.arange(Q)
    encode = lambda at: (table[at], None)  # noqa: E731
    alone = sampled_loss(users, encode, N, targets, share=share, uniform=0, rows=torch.zeros(Q, dtype=torch.int64))
    apart = sampled_loss(users, encode, N, targets, share=share, uniform=0)
    assert float(alone) == 0.0
    assert float(apart) > 1.0


def test_only_targets_and_negatives_are_encoded(parts: tuple[Tensor, ...]) -> None:
    users, table, _, share = parts
    asked: list[int] = []

    def encode(at: Tensor) -> tuple[Tensor, None]:
        asked.append(len(at))
        return table[at], None

    sampled_loss(users, encode, N, torch.arange(Q), share=share, in_batch=10, uniform=20)
    assert asked == [Q + 10 + 20]


def test_the_share_of_an_item_is_how_often_it_is_asked_for() -> None:
    got = target_share(np.array([2, 0, 2, 2], np.int64), 4)
    assert got.tolist() == [0.25, 0.0, 0.75, 0.0]
