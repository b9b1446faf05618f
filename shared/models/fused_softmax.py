"""Cross-entropy over a catalogue whose logits are too many to be held: made for a few users at a time, and the
gradients with them, as fused cross-entropy kernels do (Hsu et al., Liger Kernel, 2024).

Too many on a CPU is what its cache does not hold, on a GPU what its memory should not.
Shapes: B users, Q questions, N items, D width; b users of a part.
"""

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

HELD: Final = {"cpu": 1 << 23, "cuda": 1 << 28}  # logits of a batch that are made in one go; of larger batches
AT_ONCE: Final = {"cpu": 1 << 20, "cuda": 1 << 28}  # so many at a time


def fits(users: Tensor, table: Tensor) -> bool:
    """Whether all logits may be made in one go."""
    return len(users) * len(table) <= HELD[users.device.type]


def fused_loss(
    users: Tensor,  # (B, D)
    table: Tensor,  # (N, D)
    bias: Tensor | None,  # (N,)
    asker: Tensor,  # (Q,) which user asks
    targets: Tensor,  # (Q,)
    *,
    masked: tuple[Tensor, Tensor] | None = None,  # 2 x (M,): users and items that are no candidates of theirs
    weights: Tensor | None = None,  # (Q,) what a question counts
) -> Tensor:
    """Weighted mean of -log softmax(users[asker] @ table.T + bias)[targets]; it has no second derivative."""
    counts = torch.ones(len(targets), device=users.device) if weights is None else weights.float()
    share = counts / counts.sum().clamp(min=1e-9)
    hidden = (asker[:0], targets[:0])
    if masked is not None:
        order = torch.argsort(masked[0], stable=True)
        hidden = (masked[0][order], masked[1][order])
    learn = torch.is_grad_enabled()
    loss: Tensor = _Fused.apply(users, table, bias, asker, targets, share, hidden, learn)  # type: ignore[no-untyped-call]
    return loss


class _Fused(torch.autograd.Function):
    """The loss is one number, so its gradients are known, up to that number's own, as soon as it is."""

    @staticmethod
    def forward(
        ctx: Any, users: Tensor, table: Tensor, bias: Tensor | None, asker: Tensor, targets: Tensor, share: Tensor,
        masked: tuple[Tensor, Tensor], learn: bool,
    ) -> Tensor:  # fmt: skip
        kind = users.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else users.dtype
        with torch.autocast(kind, enabled=False):
            u, v = users.to(dtype), table.to(dtype)
            b = torch.zeros(len(v), dtype=dtype, device=v.device) if bias is None else bias.to(dtype)
            weight = torch.zeros(len(u), device=u.device).index_add_(0, asker, share)  # (B,)
            loss = -(share * ((u[asker] * v[targets]).sum(1).float() + b[targets].float())).sum()
            gradients = _Gradients(u, v)
            if learn:
                gradients.pull(asker, targets, share)
            for part in torch.arange(len(u), device=u.device).split(max(1, AT_ONCE[kind] // len(v))):
                z = torch.addmm(b, u[part], v.T)  # (b, N)
                z[_within(part, *masked)] = -torch.inf
                top = z.amax(1, keepdim=True).clamp(min=-1e30)  # -inf: of who may have nothing, and so asks nothing
                z.sub_(top).exp_()
                total = z.sum(1, dtype=torch.float32).clamp(min=1e-30)  # (b,)
                loss += (weight[part] * (total.log() + top[:, 0].float())).sum()
                if learn:
                    gradients.push(part, z, (weight[part] / total).to(dtype)[:, None])
        ctx.dtypes = users.dtype, table.dtype, None if bias is None else bias.dtype
        ctx.save_for_backward(gradients.users, gradients.table, gradients.bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        found = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if dtype is None else (of * scale).to(dtype) for of, dtype in found), *[None] * 5


class _Gradients:
    """Of users, table and bias, summed over parts: in float32 at least, since bf16 would lose what is small."""

    def __init__(self, u: Tensor, v: Tensor) -> None:
        self.u, self.v = u, v
        dtype = torch.promote_types(u.dtype, torch.float32)
        self.users, self.table = (torch.zeros(x.shape, dtype=dtype, device=x.device) for x in (u, v))
        self.bias = torch.zeros(len(v), dtype=dtype, device=v.device)

    def pull(self, asker: Tensor, targets: Tensor, share: Tensor) -> None:
        """Towards the targets: -share for each question (Q,)."""
        share = share.to(self.table.dtype)
        self.users.index_add_(0, asker, -share[:, None] * self.v[targets])
        self.table.index_add_(0, targets, -share[:, None] * self.u[asker])
        self.bias.index_add_(0, targets, -share)

    def push(self, part: Tensor, z: Tensor, scale: Tensor) -> None:
        """Away from all: the softmax z * scale (b, N) of the users `part` (b,)."""
        x = scale * self.u[part]
        self.users[part] += scale * (z @ self.v)
        if z.dtype == self.table.dtype:
            self.table.addmm_(z.T, x)
        else:
            self.table += z.T @ x
        self.bias += z.T @ scale[:, 0]


def _within(part: Tensor, rows: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Of columns in order of `rows`: what is of the rows `part`, side by side, with the first of them as 0."""
    low, high = torch.searchsorted(rows, torch.stack([part[0], part[-1] + 1])).tolist()
    return rows[low:high] - part[0], *(other[low:high] for other in others)
