"""Which targets a figure is the mean of. A slice depends on the data alone, so it is the same for every model.

Targets are those of the cases, then those of the newcomers: users first met in the test, whom the overall figure does
not ask. Counts of items and of users are training counts: of the log that the asked model was fitted on. Live slices
are of models whose item table follows the stream, and count at ranking time.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.experiments import live
from shared.experiments.tasks import Task
from shared.models.evaluation import HEAD_SHARE, head_items

Bools = NDArray[np.bool_]

OVERALL: Final = "overall"
GROUPS: Final = ("head_items", "tail_items", "head_users", "tail_users")
USER_EVENTS: Final = (0, 1, 2, 3)  # of the user at ranking time
ITEM_EVENTS: Final = (0, 1, 2)  # users who had met the item when training ended
LIVE: Final = "live_"  # before a slice, and before the metrics that it is of: see shared.experiments.live
NOT_MET: Final = "not_met_before"  # where items of the history may be targets: those that are not


@dataclass(frozen=True)
class Slices:
    """`users` (T,): whose target each is. `of` (T,) each: which targets are in a slice; empty ones are left out."""

    users: list[str]
    of: dict[str, Bools]


def slices(task: Task) -> Slices:
    """In the order in which tables show them."""
    asked = [*task.cases, *task.newcomers]
    users = [case.user.user_id for case in asked for _ in case.targets]
    history = np.array([len(case.user.interactions) for case in asked for _ in case.targets], np.int64)
    row = np.array([task.test.row_of.get(target, -1) for case in asked for target in case.targets], np.int64)
    known = np.zeros(len(row), np.bool_)
    known[: sum(len(case.targets) for case in task.cases)] = True
    # One more row than the catalogue: what -1, an unknown item, points at.
    met = np.append(task.test.counts, 0)[row]
    head = np.append(head_items(task.test.counts.tolist()), False)[row]
    active = head_users(task)
    of_active = np.array([user in active for user in users], np.bool_)
    found: dict[str, Bools] = {
        OVERALL: known,
        "head_items": known & head,
        "tail_items": known & ~head,
        "head_users": known & of_active,
        "tail_users": known & ~of_active,
        **{f"user_events_{n}": history == n for n in USER_EVENTS},
        **{f"item_events_{n}": known & (met == n) for n in ITEM_EVENTS},
    }
    if task.test.repeats:
        again = [target in {s.item_id for s in case.user.interactions} for case in asked for target in case.targets]
        found[NOT_MET] = known & ~np.array(again, np.bool_)
    if task.log is not None:
        met = live.met_by(task)
        found |= {LIVE + OVERALL: known, LIVE + "tail_items": known & ~head}
        found |= {f"{LIVE}item_events_{n}": np.maximum(met, 0) == n for n in ITEM_EVENTS}
    return Slices(users, {name: kept for name, kept in found.items() if kept.any()})


def head_users(task: Task) -> set[str]:
    """The share of training users with the most events, the first ids of equals."""
    sequences = task.test.sequences
    events = np.diff(sequences.offsets)
    by_count = sorted(range(len(sequences)), key=lambda at: (-events[at], sequences.users[at]))
    return {sequences.users[at] for at in by_count[: max(1, round(HEAD_SHARE * len(by_count)))]}
