"""SimilarItems: the items most like one, by the cosine of the vectors that the model scores with.

graph_updater's SimilarItems compares texts or opinions; this one compares what the model has learnt of who meets what
as well. Calls that arrive together are one pass over the item table.
"""

from collections.abc import Sequence
from typing import Final

from torch import Tensor
from torch.nn import functional as F

from services.ranking import metrics
from services.ranking.batcher import Limits, MicroBatcher, Ticket
from services.ranking.catalogue import Catalogue
from services.ranking.facts import Facts, both
from services.ranking.inference import Inference
from services.ranking.job import Pick
from services.ranking.requests import SimilarQuery
from services.ranking.stages import select
from services.ranking.stages.allowed import Allowed
from services.ranking.stages.score import Rows
from shared.errors import FailedPrecondition, NotFound
from shared.models.contract import ItemTable
from shared.pb.finestream.v1 import ranking_pb2

Response = ranking_pb2.RankingServiceSimilarItemsResponse
NO_MODEL: Final = "no model has been published yet; train one, or ask GraphService.SimilarItems, which compares texts"


class Similar:
    def __init__(self, catalogue: Catalogue, inference: Inference, limits: Limits, tile_items: int) -> None:
        self._catalogue = catalogue
        self._inference = inference
        self._tile_items = tile_items
        self._together: MicroBatcher[SimilarQuery, Response | None] = MicroBatcher("similar", self._infer, limits)

    def start(self) -> None:
        self._together.start()

    async def stop(self) -> None:
        await self._together.stop()

    async def items(self, query: SimilarQuery, deadline: float) -> Response:
        """Answer one query; `deadline` is on time.monotonic's clock.

        Raises NotFound for an item that is not in the catalogue, FailedPrecondition while there is no model,
        DeadlineExceeded and Overloaded.
        """
        if self._catalogue.current.release.model is None:
            raise FailedPrecondition(NO_MODEL)
        found = await self._together.submit(query, deadline)
        if found is None:
            raise NotFound(f"item {query.item_id!r} is not in the catalogue; publish it, or ask for another")
        return found

    async def _infer(self, tickets: Sequence[Ticket[SimilarQuery, Response | None]]) -> None:
        for ticket in tickets:
            metrics.STAGE["queue"].observe(ticket.waited)
        found = await self._inference.run(self._find, [ticket.query for ticket in tickets])
        for ticket, one in zip(tickets, found, strict=True):
            ticket.settle(one)

    def _find(self, queries: Sequence[SimilarQuery]) -> list[Response | None]:
        """None for an item that is not in the catalogue."""
        generation = self._catalogue.current
        facts, table = generation.facts, generation.table
        known = [query for query in queries if query.item_id in facts.row_of]
        if table is None or not known:
            return [None] * len(queries)
        found = iter(nearest(known, facts, table, self._tile_items))
        version = generation.release.version
        return [_response(next(found), facts, version) if query.item_id in facts.row_of else None for query in queries]


def nearest(queries: Sequence[SimilarQuery], facts: Facts, table: ItemTable, tile_items: int) -> list[list[Pick]]:
    """The k nearest rows of each, without the item itself; those that many rows are asked for in one pass together."""
    left_out = [{facts.row_of[item] for item in (q.item_id, *q.excludes) if item in facts.row_of} for q in queries]
    narrowed = [facts.narrowed(query.categories, query.prices) for query in queries]
    found: list[list[Pick]] = [[] for _ in queries]
    whole = [at for at, (rows, _) in enumerate(narrowed) if rows is None]
    if whole:
        k = max(queries[at].k for at in whole)
        scores = ByCosine([facts.row_of[queries[at].item_id] for at in whole], table)
        allowed = Allowed(facts.available, [left_out[at] for at in whole], [narrowed[at][1] for at in whole])
        best = select.best(scores, allowed, k, tile_items)
        for at, picks in zip(whole, best, strict=True):
            found[at] = picks[: queries[at].k]
    for at, (rows, mask) in enumerate(narrowed):
        if rows is not None:
            scores, shown = ByCosine([facts.row_of[queries[at].item_id]], table), both(facts.available, mask)
            found[at] = select.best_of(scores, shown, rows - left_out[at], queries[at].k, tile_items)
    return found


class ByCosine:
    """score = the cosine of an asked row and a row of the table."""

    def __init__(self, asked: Sequence[int], table: ItemTable) -> None:
        self._table = table
        self._directions = F.normalize(table.vectors[list(asked)].float(), dim=1)  # (B, D)

    def tile(self, rows: Rows) -> Tensor:
        return self._directions @ F.normalize(self._table.vectors[rows].float(), dim=1).T


def _response(picks: Sequence[Pick], facts: Facts, version: str) -> Response:
    items = [ranking_pb2.SimilarItem(item_id=facts.item_ids[pick.row], similarity=pick.score) for pick in picks]
    return Response(items=items, model_version=version)
