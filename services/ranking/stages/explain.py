"""Explain: one reason an item, from what is true of this user and this item.

An opinion where reviewers praise an attribute that the user speaks about: the one whose vector agrees most with
the user's own opinions of it. Else the item of the user's history whose vector is closest to the item's. Popular
items: how many users met them. What is shown by chance, or by a rule, says that.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.nn import functional as F

from services.ranking.facts import Facts
from services.ranking.generation import Generation
from services.ranking.job import EXPLORED, PINNED, POPULAR, Job
from services.ranking.opinions import Opinion
from shared.graph.state import UserState
from shared.models.contract import ItemTable
from shared.pb.finestream.v1 import ranking_pb2
from shared.space import Floats, dequantise

CATCH_ALL: Final = "other"  # the attribute of what fits no named one says little


@dataclass(frozen=True, slots=True)
class Voice:
    """What a user says of one attribute: the mean direction of the opinions, and how many they are."""

    direction: Floats  # (c,), length 1 or 0
    count: int


def explain(jobs: Sequence[Job], generation: Generation) -> None:
    for job in jobs:
        if not job.query.explain:
            continue
        if job.rung == POPULAR or generation.table is None:
            job.explanations = [_popular(users) for users in _users(job, generation.facts)]
        else:
            job.explanations = _personal(job, generation.facts, generation.table)
        for at, pick in enumerate(job.picks):
            if pick.placement == EXPLORED:
                job.explanations[at] = _explored(float(generation.facts.users[pick.row]))
            elif pick.placement == PINNED:
                job.explanations[at] = ranking_pb2.Explanation(pinned=ranking_pb2.PinnedReason())


def _popular(users: float) -> ranking_pb2.Explanation:
    return ranking_pb2.Explanation(popular=ranking_pb2.PopularReason(users=users))


def _users(job: Job, facts: Facts) -> list[float]:
    """How many users met each pick: not its score, which rules may have changed."""
    return facts.users[[pick.row for pick in job.picks]].tolist()


def _explored(users: float) -> ranking_pb2.Explanation:
    return ranking_pb2.Explanation(explored=ranking_pb2.ExploredReason(users=users))


def _personal(job: Job, facts: Facts, table: ItemTable) -> list[ranking_pb2.Explanation]:
    voices = voices_of(job.user)
    own = {slot.review_id for slot in job.user.reviews}
    rows = [pick.row for pick in job.picks]
    speaking = speaking_opinions([facts.opinions(row) for row in rows] if voices else [()] * len(rows), voices, own)
    closest = closest_of_history(table, job.history, rows)
    return [
        _of_opinion(opinion) if opinion else _of_history(facts.item_ids[history_row])
        for opinion, history_row in zip(speaking, closest, strict=True)
    ]


def voices_of(user: UserState) -> dict[str, Voice]:
    """Attribute -> what the user says of it, over all reviews that the state holds."""
    vectors: dict[str, list[Floats]] = defaultdict(list)
    for slot in user.reviews:
        for pair in slot.pairs:
            vectors[pair.attribute].append(dequantise(pair.vector))
    return {attribute: Voice(_direction(found), len(found)) for attribute, found in vectors.items()}


def _direction(vectors: Sequence[Floats]) -> Floats:
    size = max(len(vector) for vector in vectors)
    same = [vector for vector in vectors if len(vector) == size]
    mean: Floats = np.mean(same, axis=0) if size else np.zeros(0, np.float32)
    length = float(np.linalg.norm(mean))
    return mean / length if length > 0 else mean


def speaking_opinions(
    items: Sequence[Sequence[Opinion]], voices: Mapping[str, Voice], own_reviews: set[str]
) -> list[Opinion | None]:
    """For each item's opinions the best one on an attribute that the user speaks about; never the user's own words."""
    fitting = [[o for o in opinions if o.attribute in voices and o.review_id not in own_reviews] for opinions in items]
    agreements = iter(agreement([o for opinions in fitting for o in opinions], voices))
    found: list[Opinion | None] = []
    for opinions in fitting:
        worths = [_worth(opinion, voices, next(agreements)) for opinion in opinions]
        found.append(opinions[worths.index(max(worths))] if opinions else None)
    return found


def _worth(opinion: Opinion, voices: Mapping[str, Voice], agrees: float) -> tuple[int, bool, float, int]:
    return (opinion.polarity, opinion.attribute != CATCH_ALL, agrees, voices[opinion.attribute].count)


def agreement(opinions: Sequence[Opinion], voices: Mapping[str, Voice]) -> list[float]:
    """Cosine of each opinion and the user's own ones on its attribute; 0 where either has no vector."""
    size = max((len(voice.direction) for voice in voices.values()), default=0)
    comparable = [len(o.vector) == size == len(voices[o.attribute].direction) for o in opinions]
    told = dequantise(b"".join(o.vector for o, same in zip(opinions, comparable, strict=True) if same))  # (M c,)
    if not len(told):
        return [0.0] * len(opinions)
    own = np.stack([voices[o.attribute].direction for o, same in zip(opinions, comparable, strict=True) if same])
    told = told.reshape(own.shape)  # (M, c)
    lengths = np.maximum(np.linalg.norm(told, axis=1), np.finfo(np.float32).tiny)
    cosines = iter(((told * own).sum(1) / lengths).tolist())
    return [next(cosines) if same else 0.0 for same in comparable]


def closest_of_history(table: ItemTable, history: Sequence[int], rows: Sequence[int]) -> list[int]:
    """For each row the history's row with the largest cosine, the newest of equals.

    A row is its own reason only where the history has no other.
    """
    if not rows:
        return []
    device = table.vectors.device
    met, picked = torch.tensor(history, device=device), torch.tensor(rows, device=device)
    left = F.normalize(table.vectors[picked].float(), dim=1)  # (K, D)
    right = F.normalize(table.vectors[met].float(), dim=1)  # (H, D)
    similar = left @ right.T  # (K, H)
    similar.masked_fill_(picked[:, None] == met[None, :], -2.0)
    return [history[at] for at in similar.argmax(dim=1).tolist()]


def _of_opinion(opinion: Opinion) -> ranking_pb2.Explanation:
    reason = ranking_pb2.OpinionReason(
        attribute=opinion.attribute, opinion=opinion.phrase, quote=opinion.quote, review_id=opinion.review_id
    )
    return ranking_pb2.Explanation(opinion=reason)


def _of_history(item_id: str) -> ranking_pb2.Explanation:
    return ranking_pb2.Explanation(history=ranking_pb2.HistoryReason(item_id=item_id))
