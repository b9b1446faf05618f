"""How fast the loss over a whole catalogue and its gradients are made: a few users at a time, against all logits at once.

Both answer the same questions in the same run, in turn; figures are medians over the rounds, one thread. The loss
takes the faster form by itself (shared/models/fused_softmax.py): where the catalogue is small, that is the baseline's.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.models.fused_softmax import fits, fused_loss
from tests.bench.figure import Figure, figure

CASES: Final = ((1024, 900, 64), (1024, 12_101, 64), (600, 12_101, 96), (512, 50_000, 64))  # questions, items, width
ROUNDS: Final = 15


def figures(rounds: int = ROUNDS) -> list[Figure]:
    with one_thread():
        return [measured(*case, rounds) for case in CASES]


@contextmanager
def one_thread() -> Iterator[None]:
    """What runs after this in the same process gets its threads back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measured(questions: int, items: int, width: int, rounds: int) -> Figure:
    """Milliseconds of loss and gradients, both ways."""
    generator = torch.Generator().manual_seed(1)
    users = torch.randn(questions, width, generator=generator).requires_grad_()
    table = (0.1 * torch.randn(items, width, generator=generator)).requires_grad_()
    bias = torch.zeros(items, requires_grad=True)
    asker, targets = torch.arange(questions), torch.randint(items, (questions,), generator=generator)

    def baseline() -> Tensor:
        return F.cross_entropy(F.linear(users, table, bias), targets)

    def ours() -> Tensor:
        return fused_loss(users, table, bias, asker, targets)

    taken: dict[str, list[float]] = {"baseline": [], "ours": []}
    for _ in range(rounds):
        for name, loss in (("baseline", baseline), ("ours", ours)):
            started = time.perf_counter()
            torch.autograd.grad(loss(), (users, table, bias))
            taken[name].append(1000 * (time.perf_counter() - started))
    way = "so small that all at once is taken" if fits(users, table) else "a few users at a time"
    return figure(
        f"softmax_loss {questions:,} × {items:,} × {width}",
        f"ms of loss and gradients of {questions:,} questions, {items:,} items, width {width} ({way}), against torch's "
        f"cross_entropy over all logits at once, one thread, torch {torch.__version__}; ratio: baseline / ours",
        statistics.median(taken["ours"]), statistics.median(taken["baseline"]), "ms",
        less_is_better=True, parts={"questions": questions, "items": items, "width": width, "rounds": rounds},
    )  # fmt: skip
