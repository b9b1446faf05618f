import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.models.neighbours import Neighbours, fit_neighbours, nobody
from shared.models.sequences import Sequences


def sequences(met: list[list[int]]) -> Sequences:
    offsets = np.cumsum([0, *map(len, met)])
    none = np.zeros(0, np.int64)
    items = np.array([item for of_user in met for item in of_user], np.int64)
    return Sequences([f"u{u}" for u in range(len(met))], offsets, items, np.zeros(len(items)), none, none)


GROUPS = [[0, 1], [0, 1], [0, 1], [2, 3], [2, 3], [2, 3, 4]]
TEXT = torch.nn.functional.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), dim=1)


def fitted(met: list[list[int]] = GROUPS, text: torch.Tensor = TEXT, rank: int = 3) -> Neighbours:
    return fit_neighbours(sequences(met), text, rank, sharpness=1.5, kappa=2.0)


def test_items_that_the_same_people_met_are_close_and_others_are_not() -> None:
    f = fitted().factors[1:]
    near = f @ f.T
    assert near[0, 1] > 10 * near[0, 2].abs()
    assert near[2, 3] > 10 * near[1, 3].abs()


def test_with_every_direction_it_is_the_powered_cosine() -> None:
    met = torch.zeros(6, 5)
    for user, items in enumerate(GROUPS):
        met[user, items] = 1
    a = met / met.sum(0).sqrt()
    values, axes = torch.linalg.eigh(a.T @ a)
    exact = axes @ torch.diag(values.clamp(min=0) ** 1.5) @ axes.T
    f = fitted(rank=5).factors[1:]
    got = f @ f.T
    assert torch.allclose(got / got.norm(), exact / exact.norm(), atol=1e-4)


def test_an_item_that_nobody_met_lies_where_its_text_is() -> None:
    view = fitted()
    rows, users = torch.tensor([1, 0, 0]), torch.tensor([3.0, 0.0, 0.0])
    content = torch.stack([TEXT[0], TEXT[0], torch.zeros(6)])
    known, new, blank = view.items(rows, content, users)
    assert torch.nn.functional.cosine_similarity(known, new, dim=0) > 0.6
    assert not blank.any()


def test_an_items_place_does_not_depend_on_the_others_of_the_call() -> None:
    view = fitted()
    rows, users = torch.arange(1, 6), torch.tensor([3.0, 3, 3, 3, 1])
    together = view.items(rows, TEXT, users)
    for at in range(5):
        alone = view.items(rows[at : at + 1], TEXT[at : at + 1], users[at : at + 1])
        assert torch.allclose(alone[0], together[at], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=1, max_size=8), st.integers(1, 7))
def test_any_log_gives_finite_factors_that_repeats_and_the_order_of_users_do_not_change(
    met: list[list[int]], rank: int
) -> None:
    a, b = fitted(met, rank=rank), fitted([items + items[:1] for items in reversed(met)], rank=rank)
    assert a.factors.shape == (6, rank)
    assert torch.isfinite(a.factors).all()
    assert torch.isfinite(a.from_text).all()
    one, other = (view.factors @ view.factors.T for view in (a, b))
    scale = max(float(one.abs().max()), 1e-3)
    if rank >= 5:  # with fewer, equal directions may be kept either way
        assert (one / scale - other / scale).abs().max() < 0.02


def test_padding_and_old_events_count_as_they_should() -> None:
    view = fitted()
    history = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1))
    real = torch.tensor([[True, True, True], [True, True, False]])
    whole = view.users(history, real, 0.5)
    assert torch.allclose(whole[0], (0.25 * history[0, 0] + 0.5 * history[0, 1] + history[0, 2]) / 3**0.5)
    assert torch.allclose(whole[1], (0.5 * history[1, 0] + history[1, 1]) / 2**0.5)
    changed = history.clone()
    changed[1, 2] += 9
    assert torch.equal(view.users(changed, real, 0.5), whole)
    assert not view.users(history, torch.zeros(2, 3, dtype=torch.bool), 1.0).any()


def test_before_anything_is_known_everything_is_at_zero() -> None:
    view = nobody(3, 5, 6)
    assert not view.items(torch.arange(1, 6), TEXT, torch.ones(5)).any()
