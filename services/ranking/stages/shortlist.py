"""Shortlist: the k best of a table so small that scoring all of it costs less than bounds that spare it.

All is scored in float32 first. The best of that and SPARE more are scored again, in float64, and what float32 can be
wrong by says whether every other row is surely worse. Where it does not, since many scores are equal or are none, the
requests are left to the others' ways.
"""

from typing import Final

import torch

from services.ranking.stages.allowed import Allowed
from services.ranking.stages.running import Running
from services.ranking.stages.scan import in_parts
from services.ranking.stages.score import Approximate

NUMBERS: Final = 3 << 20  # of a table whose bounds cost more than its scores: 12 MiB, which caches hold
SCORES: Final = 1 << 21  # of all requests: 8 MiB
SPARE: Final = 16


def fits(scores: Approximate, allowed: Allowed) -> bool:
    return scores.numbers <= NUMBERS and 0 < len(allowed) * allowed.rows <= SCORES


def shortlist(scores: Approximate, allowed: Allowed, k: int) -> Running | None:
    """None where the k best are not surely among the rows that were scored again."""
    about, wrong = scores.about()  # (B, N), (B,)
    if not wrong.isfinite().all():  # nor would -inf mean that a row is not allowed
        return None
    top = allowed.masked(about, slice(0, allowed.rows)).topk(min(k + SPARE, allowed.rows), dim=1)
    requests = torch.arange(len(allowed)).repeat_interleave(top.indices.shape[1])
    exact = in_parts(scores, requests, top.indices.flatten()).view_as(top.values)
    found = Running(len(allowed), k, allowed.device)
    found.offer_each(exact.masked_fill(top.values == -torch.inf, -torch.inf), top.indices)
    best_of_others = top.values[:, -1]
    sure = (best_of_others == -torch.inf) | (best_of_others.double() + wrong < found.least())
    return found if top.indices.shape[1] == allowed.rows or sure.all() else None
