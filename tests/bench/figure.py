"""What a benchmark gives: a number of ours beside a baseline's, and what it was measured on."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache

from msgspec import Struct

from shared.hardware import cpu


class Figure(Struct, frozen=True, kw_only=True):
    """One comparison. `ratio` says how many times better ours is: ours / baseline, inverted where less is better.

    `goal` is the ratio to reach. `parts` are further numbers, by what they are.
    """

    name: str
    what: str  # is measured, and against what, in one sentence
    ours: float
    baseline: float
    unit: str
    ratio: float
    goal: float | None
    parts: dict[str, float]
    hardware: str
    python: str
    date: str  # UTC

    @property
    def verdict(self) -> str:
        """How the ratio stands to the goal; empty where there is none."""
        if self.goal is None:
            return ""
        return f"{'reaches' if self.ratio >= self.goal else 'below'} its goal {self.goal:g}"


def figure(
    name: str, what: str, ours: float, baseline: float, unit: str, *,
    goal: float | None = None, less_is_better: bool = False, parts: Mapping[str, float] | None = None,
) -> Figure:  # fmt: skip
    """What has just been measured on this machine."""
    return Figure(
        name=name, what=what, ours=ours, baseline=baseline, unit=unit,
        ratio=baseline / ours if less_is_better else ours / baseline, goal=goal, parts=dict(parts or {}),
        hardware=hardware(), python=platform.python_version(), date=datetime.now(UTC).date().isoformat(),
    )  # fmt: skip


@cache
def hardware() -> str:
    """CPU model, cores, and the GPU that torch could use."""
    import torch  # on use: what measures no model need not wait for it at the start

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cpu()}, {gpu}"
