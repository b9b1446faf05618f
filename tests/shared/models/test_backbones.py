import pytest
import torch
from torch import Tensor

from shared.models.backbones import NAMES, backbone

CAUSAL = [name for name in NAMES if name != "bert4rec"]


def inputs(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Of 5, 3, 1 and no items."""
    x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(5) < torch.tensor([[5], [3], [1], [0]])


def encoder(name: str, layers: int = 2, dropout: float = 0.0) -> torch.nn.Module:
    torch.manual_seed(0)
    return backbone(name, 8, layers, 2, dropout, longest=7)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_whether_it_is_causal_and_is(name: str) -> None:
    found, (x, real) = encoder(name).eval(), inputs()
    assert found.causal is (name in CAUSAL)
    before = found(x, real)
    for t in range(4):
        later = x.clone()
        later[:, t + 1 :] = later[:, t + 1 :].flip(-1)  # a number added to all would be normed away
        after = found(later, real)
        assert close(before[0, : t + 1], after[0, : t + 1]) is bool(found.causal)
        assert not close(before[0, t + 1], after[0, t + 1])


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing_whatever_is_in_it(name: str) -> None:
    found, (x, real) = encoder(name).eval(), inputs()
    other = torch.where(real[:, :, None], x, 9.0)
    wide = torch.cat([other, torch.full((4, 2, 8), -3.0)], 1)
    before = found(x, real)
    after = found(wide, torch.nn.functional.pad(real, (0, 2)))
    assert close(before[real], after[:, :5][real])
    assert after.isfinite().all()  # who has met nothing is no number's fault


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_the_batch(name: str) -> None:
    found, (x, real) = encoder(name).eval(), inputs()
    whole = found(x, real)
    for row in range(3):
        length = int(real[row].sum())
        assert close(whole[row, :length], found(x[row : row + 1, :length], real[row : row + 1, :length])[0])


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    found, (x, real) = encoder(name), inputs()
    (found(x, real)[real] * torch.randn(int(real.sum()), 8)).sum().backward()
    for parameter_name, parameter in found.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_order_counts(name: str) -> None:
    found, (x, real) = encoder(name).eval(), inputs()
    swapped = x[:, [1, 0, 2, 3, 4]]
    assert not close(found(x, real)[0, 4], found(swapped, real)[0, 4])


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_for_training_only(name: str) -> None:
    found, (x, real) = encoder(name, dropout=0.5), inputs()
    assert not torch.equal(found(x, real), found(x, real))
    found.eval()
    assert torch.equal(found(x, real), found(x, real))


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="caser"):
        backbone("caser", 8, 1, 1, 0.0, 5)
