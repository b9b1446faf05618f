"""How fast the loss over a whole catalogue and its gradients are made: a few users at a time, against all logits at once.

python -m tests.bench.softmax_loss [--json FILE]

Both answer the same questions in the same run, in turn; figures are medians over the rounds, one thread. The loss
takes the faster form by itself (shared/models/fused_softmax.py).
"""

import argparse
import json
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.models.fused_softmax import fits, fused_loss

CASES: Final = ((1024, 900, 64), (1024, 12_101, 64), (600, 12_101, 96), (512, 50_000, 64))  # questions, items, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(*case, given.rounds) for case in CASES]
    for row in rows:
        print(
            f"{row['questions']:,} questions, {row['items']:,} items, width {row['width']}: all at once "
            f"{row['baseline']:.1f} ms, in parts {row['ours']:.1f} ms, ratio {row['ratio']:.2f}"
            f"{'' if row['in_parts'] else ' (so small, all at once is taken)'}"
        )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


def measured(questions: int, items: int, width: int, rounds: int) -> dict[str, Any]:
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
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return {
        "name": "softmax_loss", "questions": questions, "items": items, "width": width, "unit": "ms", **medians,
        "ratio": medians["baseline"] / medians["ours"], "in_parts": not fits(users, table),
        "hardware": f"{platform.processor() or platform.machine()}, one thread",
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
