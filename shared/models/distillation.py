"""Self-distillation from similar users (LLM-ESR, Liu et al., NeurIPS 2024, section 3.3), for any model of users.

  loss = 1/B sum_b strength_b MSE(u_b, sg(sum_k weight_bk t_k / sum_k weight_bk)),  k in the top similar users of b

t_k is what a teacher makes of user k's whole training history. Here the teacher is a running mean of the weights,
its vectors are kept and made anew once an epoch, `weight` is the similarity and `strength` is 0 but for users with
little history, who have something to learn from others. The paper's own is a setting of each: ema=0 (the weights
themselves), refresh=1 (anew at every step), weights and strengths of 1.

A `Distillation` is a module beside the network that it teaches: both in one nn.ModuleDict, and what trains that
keeps the teacher through a checkpoint and never puts a gradient on it.
Shapes: U users of the log, B of a batch, k neighbours, D width of a user's vector, E of a text embedding.
"""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.models.fitting import Similar
from shared.models.sequences import Sequences

ENCODED_AT_ONCE: Final = 512  # users
EVENTS_AT_ONCE: Final = 1 << 16
DAY: Final = 86_400.0

Batch = TypeVar("Batch")
Encode = Callable[[nn.Module, Tensor], Tensor]  # the teacher, users (K,) -> (K, D)


@dataclass(frozen=True)
class Neighbours:
    rows: Tensor  # (U, k) int64, -1 where there are fewer
    weight: Tensor  # (U, k) float32: what a neighbour counts, 0 where there is none
    strength: Tensor  # (U,) float32: what it counts to be like them


def find_neighbours(
    similar: Similar, vectors: NDArray[np.float32], k: int, taught: NDArray[np.bool_], weighted: bool
) -> Neighbours:
    """The k most similar of users (U, E), by the vector index; `taught` (U,): who learns from them."""
    rows, similarity = similar(vectors, k)
    rows = torch.from_numpy(np.asarray(rows, np.int64))
    likeness = torch.from_numpy(np.asarray(similarity, np.float32)).clamp(min=0) * (rows >= 0)
    weight = likeness if weighted else (rows >= 0).float()
    found = (weight > 0).sum(1)
    strength = weight.sum(1) / found.clamp(min=1) * torch.from_numpy(taught)
    return Neighbours(rows, weight, strength)


class Distillation(nn.Module):
    """The teacher, its vectors, and the loss. Iterate an epoch's batches through `epoch`."""

    rows: Tensor
    weight: Tensor
    strength: Tensor
    vectors: Tensor
    step: Tensor

    def __init__(
        self, student: nn.Module, encode: Encode, width: int, found: Neighbours, ema: float = 0.99, refresh: int = 0
    ) -> None:
        """`width`: D. `ema`: the decay of the running mean. `refresh`: steps after which the vectors are made anew;
        0: once an epoch, 1: nothing is kept, and only whom the batch needs is encoded."""
        super().__init__()
        # Buffers are shared with the student, not copied: they are data, such as the items' texts.
        self.teacher = deepcopy(student, {id(buffer): buffer for buffer in student.buffers()})
        for module in self.teacher.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                module.register_buffer(name, buffer, persistent=False)  # nor saved twice
        self.teacher.requires_grad_(False).eval()
        self.encode, self.ema, self.refresh = encode, ema, refresh
        device = next(student.parameters()).device
        for name, tensor in (("rows", found.rows), ("weight", found.weight), ("strength", found.strength)):
            self.register_buffer(name, tensor.to(device), persistent=False)
        needed = torch.unique(found.rows[found.strength > 0])
        self.needed = needed[needed >= 0].to(device)  # users who are somebody's neighbour
        users = 0 if refresh == 1 else len(found.rows)
        self.register_buffer("vectors", torch.zeros(users, width, device=device))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64, device=device))

    def train(self, mode: bool = True) -> "Distillation":
        """A teacher has no dropout."""
        super().train(mode)
        self.teacher.eval()
        return self

    def epoch(self, batches: Iterable[Batch], student: nn.Module) -> Iterator[Batch]:
        """The batches, each after the teacher has taken in what the one before it taught the student."""
        if self.refresh == 0:
            self._encode_all()
        for batch in batches:
            self.advance(student)
            yield batch

    @torch.no_grad()
    def advance(self, student: nn.Module) -> None:
        """The running mean takes in the weights as they are now; the mean's first steps are short ones."""
        decay = torch.clamp((1 + self.step) / (10 + self.step), max=self.ema)
        for mean, now in zip(self.teacher.parameters(), student.parameters(), strict=True):
            mean.lerp_(now, (1 - decay).to(mean.dtype))
        if self.refresh > 1 and int(self.step) % self.refresh == 0:
            self._encode_all()
        self.step += 1

    def forward(self, u: Tensor, users: Tensor) -> Tensor:
        """The loss of vectors u (B, D) of `users` (B,)."""
        strength = self.strength[users]  # (B,)
        target = self.target(users)
        return (strength * ((u.float() - target) ** 2).mean(1)).sum() / max(1, len(users))

    @torch.no_grad()
    def target(self, users: Tensor) -> Tensor:
        """(B,) -> (B, D): what those like them come to; zero where there is nobody."""
        rows, weight = self.rows[users], self.weight[users] * (self.strength[users] > 0)[:, None]  # (B, k)
        share = weight / weight.sum(1, keepdim=True).clamp(min=1e-9)
        return (share[:, :, None] * self._vectors(rows, weight > 0)).sum(1)

    def _vectors(self, rows: Tensor, wanted: Tensor) -> Tensor:  # (B, k), (B, k) -> (B, k, D)
        if self.refresh != 1:
            return self.vectors[rows.clamp(min=0)]
        users, place = torch.unique(rows[wanted], return_inverse=True)
        out = torch.zeros(*rows.shape, self.vectors.shape[1], device=rows.device)
        if len(users):
            out[wanted] = self._encoded(users)[place]
        return out

    @torch.no_grad()
    def _encode_all(self) -> None:
        if len(self.needed):
            self.vectors[self.needed] = self._encoded(self.needed)

    def _encoded(self, users: Tensor) -> Tensor:
        return torch.cat([self.encode(self.teacher, part).float() for part in users.split(ENCODED_AT_ONCE)])


def semantic_users(content: Tensor, sequences: Sequences, half_life_days: float = 0.0) -> NDArray[np.float32]:
    """(N, E) -> (U, E): the mean of the texts that a user has met, items without text left out.

    With a half-life an event counts the less the older it is than the user's newest.
    """
    offsets, times = np.asarray(sequences.offsets), np.asarray(sequences.times)
    user_of = np.repeat(np.arange(len(sequences)), np.diff(offsets))  # (M,)
    counts = np.ones(len(user_of), np.float32)
    if half_life_days > 0:
        ago = times[offsets[1:] - 1][user_of] - times
        counts = np.exp2(-ago / (half_life_days * DAY)).astype(np.float32)
    counts *= (content != 0).any(1).numpy()[sequences.items]
    out = torch.zeros(len(sequences), content.shape[1])
    for start in range(0, len(user_of), EVENTS_AT_ONCE):
        at = slice(start, start + EVENTS_AT_ONCE)
        texts = content[torch.from_numpy(np.asarray(sequences.items[at]))] * torch.from_numpy(counts[at])[:, None]
        out.index_add_(0, torch.from_numpy(user_of[at]), texts)
    total = np.bincount(user_of, counts, len(sequences)).astype(np.float32)
    return np.asarray(out.numpy() / np.maximum(total, np.float32(1e-9))[:, None], np.float32)


def tail_users(sequences: Sequences, share: float = 0.8) -> NDArray[np.bool_]:
    """(U,): the users with the shortest histories, about `share` of all; everybody where all are alike.

    Users of one length are all in or all out: in, unless that would make them more than `share`. With the
    shortest alone more than that, it is these.
    """
    lengths = np.diff(np.asarray(sequences.offsets))
    if not len(lengths):
        return np.zeros(0, np.bool_)
    values, counts = np.unique(lengths, return_counts=True)
    within = int((np.cumsum(counts) <= share * len(lengths) + 1e-9).sum())
    return np.asarray(lengths <= values[max(0, within - 1)])
