"""How fast ranking finds the exact top 100 of a million items for batches of 1, 8 and 64 users, against torch and FAISS.

torch: matmul, then topk, of all scores at once. FAISS: IndexFlatIP, exact too. All three answer the same users in the
same process with the same number of threads, in turn, every round new users; figures are medians over the rounds. Each
answer of ours is compared with all scores in float64. FAISS answers one user with one thread, however many it may use.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from services.ranking.codes import Codes
from services.ranking.job import Pick
from services.ranking.settings import RankingSettings
from services.ranking.stages import score, select
from services.ranking.stages.allowed import Allowed
from shared.hardware import cores
from shared.models.contract import ItemTable
from tests.bench.figure import Figure, figure

ITEMS: Final = 1_000_000
WIDTH: Final = 64
K: Final = 100
BATCHES: Final = (1, 8, 64)
ROUNDS: Final = 7
GOALS: Final = {"torch": 1.5, "faiss": 1.0}
TOLD: Final = {"torch": f"torch.matmul and torch.topk, torch {torch.__version__}", "faiss": "FAISS IndexFlatIP"}
TILE_ITEMS: Final = RankingSettings.model_fields["tile_items"].default

Search = Callable[[Tensor], Any]  # users (B, D) -> answers


def figures(rounds: int = ROUNDS, items: int = ITEMS, threads: int = 0) -> list[Figure]:
    """`threads` 0: one a core."""
    numbers = torch.Generator().manual_seed(1)
    table = ItemTable(
        [str(row) for row in range(items)], torch.randn(items, WIDTH, generator=numbers), torch.zeros(items)
    )
    with torch.inference_mode(), using(threads or cores()) as used:
        codes = Codes(WIDTH)
        codes.follow(table, torch.arange(items))
        searches = {"ours": ours(table, codes), "torch": by_torch(table), "faiss": by_faiss(table, used)}
        of_batch = {batch: measured(batch, searches, table, rounds, numbers) for batch in BATCHES}
    parts = {"threads": used, "rounds": rounds, "bytes of the copy": codes.held_bytes}
    return [compared(batch, name, of_batch[batch], items, parts) for batch in BATCHES for name in GOALS]


@contextmanager
def using(threads: int) -> Iterator[int]:
    """What runs after this in the same process gets its threads back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


def ours(table: ItemTable, codes: Codes) -> Callable[[Tensor], list[list[Pick]]]:
    available = torch.ones(len(table), dtype=torch.bool)

    def search(users: Tensor) -> list[list[Pick]]:
        allowed = Allowed(available, [set()] * len(users))
        return select.best(score.by_model(users, table, codes), allowed, K, TILE_ITEMS)

    return search


def by_torch(table: ItemTable) -> Search:
    return lambda users: torch.topk(torch.matmul(users, table.vectors.T), K)


def by_faiss(table: ItemTable, threads: int) -> Search:
    try:
        import faiss  # of the extra `bench` alone
    except ImportError as error:
        raise RuntimeError("FAISS is not installed: run make bench, or pip install -e '.[bench]'") from error
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(table.vectors.numpy())
    return lambda users: index.search(users.numpy(), K)


def measured(
    batch: int, searches: dict[str, Search], table: ItemTable, rounds: int, numbers: torch.Generator
) -> dict[str, float]:
    """Milliseconds of each. Raises AssertionError where an answer of ours is not exact."""
    taken: dict[str, list[float]] = {name: [] for name in searches}
    for number in range(rounds + 1):
        users = torch.randn(batch, WIDTH, generator=numbers)
        for name, search in searches.items():
            started = time.perf_counter()
            found = search(users)
            if number:  # the first is to warm up
                taken[name].append(1000 * (time.perf_counter() - started))
            if name == "ours":
                check(found, users, table)
    return {name: statistics.median(of) for name, of in taken.items()}


def check(found: Sequence[Sequence[Pick]], users: Tensor, table: ItemTable) -> None:
    """Nothing has a higher score than what was found, and scores are those of the rows: recall 1, ties aside."""
    highest = users.new_empty((len(users), 0))  # (B, <= K)
    for some in table.vectors.split(1 << 14):
        scores = (users.double() @ some.double().T).float()
        highest = torch.cat([highest, scores.topk(min(K, scores.shape[1])).values], dim=1).topk(K).values
    rows = torch.tensor([[pick.row for pick in picks] for picks in found])  # (B, K)
    scores = torch.einsum("bd,bkd->bk", users.double(), table.vectors[rows].double()).float()
    assert torch.equal(scores, highest)
    assert torch.equal(scores, torch.tensor([[pick.score for pick in picks] for picks in found]))


def compared(batch: int, name: str, taken: dict[str, float], items: int, parts: dict[str, float]) -> Figure:
    return figure(
        f"topk {batch} of {name}",
        f"ms of the exact top {K} of {items:,} items of width {WIDTH} for {batch} users at once, against {TOLD[name]}",
        taken["ours"], taken[name], "ms", goal=GOALS[name], less_is_better=True, parts=parts,
    )  # fmt: skip
