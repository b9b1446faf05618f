"""Models as they are served: the item table follows the stream through the test, the weights do not.

The batch protocol's table is as of the split, so an item that is new in the test is a miss for every model. Here the
test's cases are parted into windows, and each is asked over a table of everything strictly before the window's first
case. Only for what is servable; the whole catalogue is ranked and items of the history are masked, as ever.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from shared.experiments.tasks import Task
from shared.graph.fold import distinct_users
from shared.graph.state import ItemNode
from shared.models.dataset import Case, Catalogue, windows
from shared.models.evaluation import Floats, Ints, rank, servable

WINDOWS: Final = 50  # at most; cases of one time are never parted


@dataclass(frozen=True)
class Window:
    cases: list[Case]
    targets: Ints  # where the targets of these cases stand among all: of the cases, then of the newcomers
    nodes: list[ItemNode]  # everything that is known strictly before the first case


def windows_of(task: Task) -> Iterator[Window]:
    """Nothing for a task without a log of the test."""
    if task.log is None:
        return
    asked = [*task.cases, *task.newcomers]
    ends = np.cumsum([len(case.targets) for case in asked])
    place = {id(case): np.arange(end - len(case.targets), end) for case, end in zip(asked, ends, strict=True)}
    catalogue = Catalogue(task.log)
    for cases in windows(sorted(asked, key=lambda case: (case.ts, case.user.user_id)), WINDOWS):
        catalogue.advance(cases[0].ts)
        yield Window(cases, np.concatenate([place[id(case)] for case in cases]), catalogue.nodes())


def is_servable(model: Any) -> bool:
    """Whether it is a `shared.models.contract.Servable`, as far as it is asked here."""
    return hasattr(model, "encode_items") and hasattr(model, "encode_users")


def figures(task: Task, model: Any) -> dict[str, Floats]:
    """metric -> (T,) over the targets of the cases, then of the newcomers."""
    count = sum(len(case.targets) for case in (*task.cases, *task.newcomers))
    out: dict[str, Floats] = {}
    for window in windows_of(task):
        table = model.encode_items(window.nodes)
        found = rank(servable(model, table), window.cases, table.row_of, repeats=task.test.repeats, lists=False)
        for name, values in found.figures.items():
            out.setdefault(name, np.zeros(count))[window.targets] = values
    return out


def met_by(task: Task) -> Floats:
    """(T,) how many users had met each target when its window began; -1 where nothing was known of it."""
    count = sum(len(case.targets) for case in (*task.cases, *task.newcomers))
    out = np.full(count, -1.0)
    for window in windows_of(task):
        users = {node.item_id: distinct_users(node.popularity_total) for node in window.nodes}
        out[window.targets] = [users.get(target, -1.0) for case in window.cases for target in case.targets]
    return out
