import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shared.packed import Packed, pack


@settings(deadline=None)  # oneDNN makes a kernel for every new shape
@given(
    leading=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 2**31),
)
def test_a_packed_map_gives_what_torchs_linear_gives(leading: list[int], sizes: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    linear = nn.Linear(*sizes)
    x = torch.randn(*leading, sizes[0])
    with torch.inference_mode():
        torch.testing.assert_close(Packed(linear)(x), linear(x))


def test_every_linear_map_with_a_bias_is_packed_wherever_it_lies() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(8, 8), nn.ModuleList([nn.Sequential(nn.Linear(8, 4))]), nn.Linear(4, 2, bias=False)
    )
    pack(module)
    assert [type(child) for child in module.modules() if not list(child.children())] == [Packed, Packed, nn.Linear]
