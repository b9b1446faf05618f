"""Explain: one reason an item, from what is true of this user and this item.

An opinion where reviewers praise an attribute that the user speaks about: the one whose vector agrees most with
the user's own opinions of it. Else the item of the user's history whose vector is closest to the item's. Popular
items: how many users met them. What is shown by chance, or by a rule, says that.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from services.ranking.facts import Facts
from services.ranking.generation import Generation
from services.ranking.job import EXPLORED, PINNED, POPULAR, Job
from services.ranking.opinions import Opinion
from shared.graph.state import UserState
from shared.models.contract import ItemTable
from shared.models.features import padded
from shared.pb.finestream.v1 import ranking_pb2
from shared.space import Floats, dequantise

CATCH_ALL: Final = "other"  # the attribute of what fits no named one says little
PADDED_ROWS: Final = 8_192  # of the table that are compared with histories at once


@dataclass(frozen=True, slots=True)
class Voice:
    """What a user says of one attribute: the mean direction of the opinions, and how many they are."""

    direction: Floats  # (c,), length 1 or 0
    count: int


Said = tuple[Opinion, Voice]  # a reviewer's opinion, and what the user says of the same


def explain(jobs: Sequence[Job], generation: Generation) -> None:
    """Fill in `explanations`. All jobs of a micro-batch together: each numpy and torch call is paid once."""
    asked = [job for job in jobs if job.query.explain]
    personal = [job for job in asked if job.rung != POPULAR]
    if personal and generation.table is not None:
        _explain(personal, generation.facts, generation.table)
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
            job.explanations[at] = ranking_pb2.Explanation(pinned=ranking_pb2.PinnedReason())


def _popular(users: float) -> ranking_pb2.Explanation:
    return ranking_pb2.Explanation(popular=ranking_pb2.PopularReason(users=users))


def _users(job: Job, facts: Facts) -> list[float]:
    """How many users met each pick: not its score, which rules may have changed."""
    return facts.users[[pick.row for pick in job.picks]].tolist()


def _explored(users: float) -> ranking_pb2.Explanation:
    return ranking_pb2.Explanation(explored=ranking_pb2.ExploredReason(users=users))


def _explain(jobs: Sequence[Job], facts: Facts, table: ItemTable) -> None:
    speaking = iter(best_of(_fitting_of(jobs, facts)))
    closest = closest_of_history(table, [(job.history, [pick.row for pick in job.picks]) for job in jobs])
    for job, rows in zip(jobs, closest, strict=True):
        job.explanations = [
            _of_opinion(opinion) if (opinion := next(speaking)) else _of_history(facts.item_ids[row]) for row in rows
        ]


def _fitting_of(jobs: Sequence[Job], facts: Facts) -> list[list[Said]]:
    """What may be told of each pick of each job, in order."""
    found: list[list[Said]] = []
    for job, voices in zip(jobs, voices_of([job.user for job in jobs]), strict=True):
        own = {slot.review_id for slot in job.user.reviews}
        found += [fitting(facts.opinions(pick.row), voices, own) if voices else [] for pick in job.picks]
    return found


def voices_of(users: Sequence[UserState]) -> list[dict[str, Voice]]:
    """Of each user: attribute -> what they say of it, over all reviews that the state holds."""
    told: list[dict[str, list[bytes]]] = []
    for user in users:
        told.append(defaultdict(list))
        for slot in user.reviews:
            for pair in slot.pairs:
                told[-1][pair.attribute].append(pair.vector)
    directions = iter(_directions([vectors for of_user in told for vectors in of_user.values()]))
    return [{name: Voice(next(directions), len(vectors)) for name, vectors in of_user.items()} for of_user in told]


def _directions(groups: Sequence[Sequence[bytes]]) -> list[Floats]:
    """The mean direction of each group of int8 vectors, (c,) of length 1 or 0; of a group the longest vectors count."""
    found = [np.zeros(0, np.float32)] * len(groups)
    sizes = [max(map(len, group)) for group in groups]
    for size in set(sizes) - {0}:
        at = [index for index, one in enumerate(sizes) if one == size]
        kept = [[vector for vector in groups[index] if len(vector) == size] for index in at]
        rows = dequantise(b"".join(vector for group in kept for vector in group)).reshape(-1, size)  # (M, c)
        first = np.cumsum([0, *(len(group) for group in kept)])[:-1]
        sums = np.add.reduceat(rows, first)  # (groups, c)
        lengths = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        for index, direction in zip(at, sums / lengths, strict=True):
            found[index] = direction
    return found


def fitting(opinions: Sequence[Opinion], voices: Mapping[str, Voice], own_reviews: set[str]) -> list[Said]:
    """An item's opinions on attributes that the user speaks about; never the user's own words."""
    return [(o, voices[o.attribute]) for o in opinions if o.attribute in voices and o.review_id not in own_reviews]


def best_of(items: Sequence[Sequence[Said]]) -> list[Opinion | None]:
    """Of each item's fitting opinions the one that is worth most; the first of equals."""
    agreements = iter(agreement([said for of_item in items for said in of_item]))
    found: list[Opinion | None] = []
    for of_item in items:
        worths = [_worth(*said, next(agreements)) for said in of_item]
        found.append(of_item[worths.index(max(worths))][0] if of_item else None)
    return found


def _worth(opinion: Opinion, voice: Voice, agrees: float) -> tuple[int, bool, float, int]:
    return (opinion.polarity, opinion.attribute != CATCH_ALL, agrees, voice.count)


def agreement(said: Sequence[Said]) -> list[float]:
    """Cosine of each opinion and the user's own ones on its attribute; 0 where either has no vector."""
    found = [0.0] * len(said)
    for size in {len(voice.direction) for _, voice in said} - {0}:
        at = [i for i, (opinion, voice) in enumerate(said) if len(opinion.vector) == size == len(voice.direction)]
        if at:
            told = dequantise(b"".join(said[i][0].vector for i in at)).reshape(-1, size)  # (M, c)
            own = np.stack([said[i][1].direction for i in at])  # (M, c)
            lengths = np.maximum(np.linalg.norm(told, axis=1), np.finfo(np.float32).tiny)
            for i, cosine in zip(at, ((told * own).sum(1) / lengths).tolist(), strict=True):
                found[i] = cosine
    return found


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


def _of_opinion(opinion: Opinion) -> ranking_pb2.Explanation:
    reason = ranking_pb2.OpinionReason(
        attribute=opinion.attribute, opinion=opinion.phrase, quote=opinion.quote, review_id=opinion.review_id
    )
    return ranking_pb2.Explanation(opinion=reason)


def _of_history(item_id: str) -> ranking_pb2.Explanation:
    return ranking_pb2.Explanation(history=ranking_pb2.HistoryReason(item_id=item_id))
