"""Several processes that train as one: each computes its share of every batch, and gradients are summed.

Started by torchrun, which sets RANK and WORLD_SIZE; without them there is one process and nothing here does anything.
A model's weights are small, so one all-reduce of all gradients after the backward pass is enough.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1

    def share(self, batch: Any) -> Any:
        """What this process computes of a batch."""
        if self.size == 1:
            return batch
        if hasattr(batch, "share"):
            return batch.share(self.rank, self.size)
        if isinstance(batch, Tensor):
            return batch[self.rank :: self.size]
        if isinstance(batch, tuple):
            return tuple(self.share(part) for part in batch)
        raise TypeError(f"{type(batch).__name__} has no share(rank, world): a batch must be parted between processes")

    def agree(self, network: nn.Module) -> None:
        """Every process takes the weights of the first."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, 0)

    def total(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Sums over the processes."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(summed)
        return [float(value) for value in summed]

    def average(self, parameters: Sequence[nn.Parameter], weight: float, total: float) -> None:
        """Gradients to their mean over the processes, each of which counts `weight` of `total`.

        What has a gradient in one process has one in all of them afterwards.
        """
        if self.size == 1:
            return
        device = parameters[0].device
        parts = [torch.zeros_like(p) if p.grad is None else p.grad * (weight / total) for p in parameters]
        has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=device)
        flat = torch.cat([has, *(part.float().flatten() for part in parts)])
        dist.all_reduce(flat)
        start = len(parameters)
        for at, parameter in enumerate(parameters):
            part = flat[start : start + parameter.numel()].view_as(parameter).to(parameter.dtype)
            start += parameter.numel()
            parameter.grad = part.clone() if flat[at] > 0 else None


def world(device: torch.device) -> World:
    """The processes that torchrun has started, joined."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), size)


def trained(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


def detached(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Copies that share no memory with the model or each other."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors}
