"""Explain: what of the user moved each item's score upward most, and what the item's reviewers say of it.

An item of the user's history, or a pair of one of their reviews: then the reason is the pair's attribute, with the
words of a reviewer of the item. How far each moved the score says the model itself, or, where the request asks for it,
leaving each out. A model that cannot say it gives the item of the history whose vector is closest, and no amount.
Where nothing of the user moved the score upward, the item is there for its popularity, which is then the reason. What
is shown by chance, or by a rule, says that.
"""

from collections.abc import Iterator, Sequence
from operator import mul
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from services.ranking.facts import Facts
from services.ranking.generation import Generation
from services.ranking.job import EXPLORED, PINNED, POPULAR, Explanation, Job
from services.ranking.opinions import Packed, unpack
from shared.events import Pair, user_hash
from shared.models.attribution import Attributing, Moved, left_out
from shared.models.contract import ItemTable, Servable
from shared.models.features import padded
from shared.pb.finestream.v1 import ranking_pb2

PADDED_ROWS: Final = 8_192  # of the table that are compared with histories at once


def explain(jobs: Sequence[Job], generation: Generation, now: float) -> None:
    """Fill in `explanations`; `now` in seconds since 1970. Jobs together: each torch call is paid once."""
    asked = [job for job in jobs if job.query.explain]
    personal = [job for job in asked if job.rung != POPULAR]
    model, table = generation.release.model, generation.table
    if personal and model is not None and table is not None:
        for some in _alike([len(job.picks) for job in personal]):
            _explain([personal[at] for at in some], generation.facts, model, table, now)
    for job in asked:
        if job.rung == POPULAR:
            job.explanations = [_popular(users) for users in _users(job, generation.facts)]
        _placed(job, generation.facts)


def _placed(job: Job, facts: Facts) -> None:
    """What stands where it stands by chance or by a rule says that instead."""
    for at, pick in enumerate(job.picks):
        if pick.placement == EXPLORED:
            job.explanations[at] = _explored(float(facts.users[pick.row]))
        elif pick.placement == PINNED:
            job.explanations[at] = {"pinned": ranking_pb2.PinnedReason()}


def _explain(jobs: Sequence[Job], facts: Facts, model: Servable, table: ItemTable, now: float) -> None:
    exact = [job for job in jobs if job.query.leave_out]
    others = [job for job in jobs if not job.query.leave_out]
    if exact:
        _tell(exact, facts, left_out(model, [job.user for job in exact], table, now, _rows(exact)))
    if others and isinstance(model, Attributing):
        _tell(others, facts, model.moved([job.user for job in others], table, _rows(others)))
    elif others:
        closest = closest_of_history(
            table, [(job.history, rows) for job, rows in zip(others, _rows(others), strict=True)]
        )
        for job, met in zip(others, closest, strict=True):
            job.explanations = [_of_history(facts.item_ids[row]) for row in met]


def _rows(jobs: Sequence[Job]) -> list[list[int]]:
    return [[pick.row for pick in job.picks] for job in jobs]


def _tell(jobs: Sequence[Job], facts: Facts, moved: Moved) -> None:
    of_items, which = moved.by_items.max(1)  # (B, K)
    best = moved.items.gather(1, which), of_items, *moved.by_said.max(1)  # (B, K) each
    by_said = moved.by_said.transpose(1, 2).contiguous()  # (B, K, P)
    order = by_said.sort(dim=2, descending=True, stable=True).indices
    # Of a pick few pairs are looked at, so what is told of all of them becomes no lists.
    of_pairs = order.cpu().numpy(), by_said.cpu().numpy()
    told = zip(jobs, moved.said, *of_pairs, *(found.tolist() for found in best), strict=True)
    for job, said, places, moves, *found in told:
        own = user_hash(job.user.user_id)
        job.explanations = []
        for k, (pick, item, by_item, most, place) in enumerate(zip(job.picks, *found, strict=False)):
            if most > max(by_item, 0.0):
                words = _quoted(said[place], facts.opinions(pick.row), own) or {"attribute": said[place].attribute}
                reason: Explanation = {"opinion": words, "moved": most}
            elif by_item > 0:
                reason = {"history": {"item_id": facts.item_ids[item]}, "moved": by_item}
                if most > 0 and (opinions := facts.opinions(pick.row)):
                    reason.update(_spoken(said, places[k], moves[k], opinions, own))
            else:
                reason = _popular(float(facts.users[pick.row]))
            job.explanations.append(reason)


def _spoken(
    said: Sequence[Pair], places: NDArray[np.int64], moves: NDArray[np.float32], opinions: Packed, own: int
) -> Explanation:
    """The pair that moved the score upward most of those on what the item's reviewers speak of, if any did.

    `places` (P,) of the pairs, what moved it most first; `moves` (P,) in the pairs' own order.
    """
    for place in places.tolist():
        by = moves.item(place)
        if by <= 0:
            break
        if said[place].attribute in opinions and (words := _quoted(said[place], opinions, own)):
            return {"spoken": words, "spoken_moved": by}
    return {}


def _quoted(said: Pair, opinions: Packed, own: int) -> dict[str, str] | None:
    """The attribute, in the words of the reviewer whose opinion is best, and of those closest to the user's own.

    None where nobody speaks of it but the user, whose hash is `own`.
    """
    same = [opinion for opinion in unpack(opinions, said.attribute) if opinion.by != own]
    if not same:
        return None
    told = same[0]
    if len(same) > 1:
        told = max(same, key=lambda opinion: (opinion.polarity, agreement(opinion.vector, said.vector)))
    return {
        "attribute": told.attribute, "opinion": told.phrase, "quote": told.quote, "review_id": told.review_id,
    }  # fmt: skip


def agreement(a: bytes, b: bytes) -> int:
    """The product of int8 vectors of one length: of unit vectors, as opinions' are, the cosine but for its scale."""
    return sum(map(mul, memoryview(a).cast("b"), memoryview(b).cast("b")))


def closest_of_history(table: ItemTable, asked: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[int]]:
    """For each (history, rows): for each row the history's row with the largest cosine, the newest of equals.

    A row is its own reason only where the history has no other. Histories are not empty.
    """
    found: list[list[int]] = [[] for _ in asked]
    for some in _alike([len(rows) for _, rows in asked]):
        places = _closest(table, *zip(*(asked[at] for at in some), strict=True))
        for at, row_places in zip(some, places, strict=True):
            history, rows = asked[at]
            found[at] = [history[place] for place in row_places[: len(rows)]]
    return found


def _alike(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Indices in parts that, filled up to their largest size, have at most PADDED_ROWS rows, or one member."""
    part: list[int] = []
    for at in sorted(range(len(sizes)), key=sizes.__getitem__):
        if part and (len(part) + 1) * sizes[at] > PADDED_ROWS:
            yield part
            part = []
        part.append(at)
    if part and sizes[part[-1]]:
        yield part


def _closest(table: ItemTable, histories: Sequence[Sequence[int]], rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places in each history (B, <= H) for each row (B, <= K): (B, K)."""
    device = str(table.vectors.device)
    met, real = padded(histories, device)  # (B, H)
    picked, _ = padded(rows, device)  # (B, K)
    similar = _directions_of(table, picked) @ _directions_of(table, met).transpose(1, 2)  # (B, K, H)
    similar.masked_fill_(picked[:, :, None] == met[:, None, :], -2.0)
    similar.masked_fill_(~real[:, None, :], -3.0)
    places: list[list[int]] = similar.argmax(dim=2).tolist()
    return places


def _directions_of(table: ItemTable, rows: Tensor) -> Tensor:
    """(B, K) -> (B, K, D)"""
    vectors = table.vectors.index_select(0, rows.flatten()).float()
    return F.normalize(vectors, dim=1).view(*rows.shape, -1)


def _users(job: Job, facts: Facts) -> list[float]:
    """How many users met each pick: not its score, which rules may have changed."""
    return facts.users[[pick.row for pick in job.picks]].tolist()


def _popular(users: float) -> Explanation:
    return {"popular": {"users": users}}


def _explored(users: float) -> Explanation:
    return {"explored": {"users": users}}


def _of_history(item_id: str) -> Explanation:
    return {"history": {"item_id": item_id}}
