"""shared/models/loops.py: compiled loops give torch's numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.models import loops
from shared.models.loops import STEP, Floats
from shared.native import native

sizes = st.integers(1, 40)
steps = st.integers(1, 9).map(lambda count: count * STEP)
seeds = st.integers(0, 10_000)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Floats:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@native
def exp_all(x: Floats, y: Floats) -> None:
    for at in range(len(x)):
        y[at] = loops.exp(x[at])


def test_exp_is_right_to_the_last_bits_over_all_that_float32_holds() -> None:
    x = np.linspace(-87, 88, 100_001, dtype=np.float32)
    y = np.empty_like(x)
    exp_all(x, y)
    assert np.abs(y / np.exp(x.astype(np.float64)) - 1).max() < 3e-7
    ends = np.array([-1e30, -np.inf, 1e30, np.inf], np.float32)
    y = np.empty_like(ends)
    exp_all(ends, y)
    assert (y[:2] < 1e-37).all()
    assert (y[2:] > 1e38).all()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (loops.gelu, F.gelu),
        (loops.gelu_slope, lambda x: torch.autograd.grad(F.gelu(x.requires_grad_()).sum(), x)[0]),
    ],
)
def test_gelu_and_its_slope_are_torchs(ours: object, theirs: object) -> None:
    x = np.concatenate([np.linspace(-12, 12, 4_001, dtype=np.float32), np.array([0.0, -0.0], np.float32)])
    found = np.array([ours(one) for one in x], np.float32)  # type: ignore[operator]
    assert np.allclose(found, theirs(torch.from_numpy(x.copy())).detach().numpy(), atol=1e-6)  # type: ignore[operator]


def test_tanh_is_torchs() -> None:
    x = np.linspace(-30, 30, 10_001, dtype=np.float32)
    y = x.copy()
    loops.tanh_all(y)
    assert np.allclose(y, np.tanh(x), atol=3e-7)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, rows=steps, inner=steps, outer=sizes, x_from=sizes, w_from=sizes, y_from=sizes)
def test_a_product_is_added_from_any_column_on_and_touches_nothing_else(
    seed: int, rows: int, inner: int, outer: int, x_from: int, w_from: int, y_from: int
) -> None:
    x, w = drawn(seed, rows + STEP, x_from + inner + 1), drawn(seed + 1, inner, w_from + outer + 1)
    y = drawn(seed + 2, rows + STEP, y_from + outer + 1)
    expected = y.copy()
    expected[:rows, y_from : y_from + outer] += x[:rows, x_from : x_from + inner] @ w[:, w_from : w_from + outer]
    loops.add_product(x, x_from, w, w_from, y, y_from, rows, inner, outer)
    assert np.allclose(y, expected, atol=1e-4)
    y[:rows, y_from : y_from + outer] = expected[:rows, y_from : y_from + outer]
    assert (y == expected).all()


@settings(max_examples=60, deadline=None)
@given(seed=seeds, inner=sizes, outer=sizes)
def test_a_row_is_mapped_and_normalised_as_by_torch(seed: int, inner: int, outer: int) -> None:
    x, w, shift = drawn(seed, inner), drawn(seed + 1, inner, outer), drawn(seed + 2, outer)
    y = np.empty(outer, np.float32)
    loops.mapped(x, w, shift, y)
    assert np.allclose(y, x @ w + shift, atol=1e-4)
    z = np.empty_like(y)
    loops.normalised(y, w[0], shift, z)
    given_ = (torch.from_numpy(one) for one in (y, w[0], shift))
    y_, gain, shift_ = given_
    assert np.allclose(z, F.layer_norm(y_, (outer,), gain, shift_).numpy(), atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, length=sizes, data=st.data(), scale=st.sampled_from([0.1, 1.0, 100.0, 1e30]))
def test_a_softmax_is_of_the_first_numbers_alone_however_large_any_are(
    seed: int, length: int, data: st.DataObject, scale: float
) -> None:
    x, count = drawn(seed, length, scale=scale), data.draw(st.integers(1, length))
    expected = torch.from_numpy(x.copy())[:count].softmax(0).numpy()
    loops.softmax(x, count)
    assert np.allclose(x[:count], expected, atol=1e-6)
    assert (x[count:] == 0).all()


@settings(max_examples=40, deadline=None)
@given(seed=seeds, rows=steps, heads=st.integers(1, 3), part=st.sampled_from([STEP, 2 * STEP]))
def test_causal_attention_is_torchs(seed: int, rows: int, heads: int, part: int) -> None:
    d, longest = heads * part, rows + STEP
    asked, questions = drawn(seed, longest, 3 * d), drawn(seed + 1, longest, 3 * d)
    keys, scores, met = drawn(1, part, longest), drawn(2, STEP, longest), drawn(3, longest, d)
    loops.attend_causally(asked, questions, rows, heads, keys, scores, met)
    k, v, _ = torch.from_numpy(asked[:rows]).view(rows, 3, heads, part).permute(1, 2, 0, 3).unbind()
    q = torch.from_numpy(questions[:rows, 2 * d :]).reshape(rows, heads, part).transpose(0, 1)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0).transpose(0, 1).reshape(rows, d)
    assert np.allclose(met[:rows], expected.numpy(), atol=1e-5)
