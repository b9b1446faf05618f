"""Linear maps for inference on a CPU, with their weights laid out as oneDNN's kernels read them.

torch hands float32 products to MKL, which uses AVX2 alone on processors that are not Intel's; oneDNN uses what
there is: with AVX-512 such a product takes half the time (docs/extraction.md). The operators are the ones of torch's
own compiled models and are not documented, so torch is pinned and a test holds them to torch's linear.
"""

from typing import Final

import torch
from torch import Tensor, nn

ROWS: Final = 1024  # of the batches that the layout is chosen for; others work too


class Packed(nn.Module):
    """W x + b of a linear map that no longer learns: (..., I) -> (..., O), float32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self._bias = linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


def pack(module: nn.Module) -> None:
    """Every linear map with a bias below the module becomes Packed, where torch has oneDNN. In place."""
    if not torch.backends.mkldnn.is_available():
        return
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear) and child.bias is not None:
            setattr(module, name, Packed(child))
        else:
            pack(child)
