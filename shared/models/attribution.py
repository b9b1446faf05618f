"""What of a user moved an item's score: the reference, for every model that can be served.

An edge is one thing that a user's state holds: an item of the history, with all its interactions, or a pair of a
review. What it moved is the score less the score of the same user without it. That costs an encoding an edge, however
many items are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import msgspec
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from shared.events import Pair
from shared.graph.state import MAX_INTERACTIONS, UserState
from shared.models.contract import ItemTable, Servable
from shared.models.features import history_rows, padded

MOST_PAIRS: Final = 50  # of a user that are left out one by one, the newest: with the items, at most 100 edges
ENCODED_AT_ONCE: Final = 256  # users


@dataclass(frozen=True)
class Moved:
    """How far the edges of B users moved the scores of K items each; -inf where a user has fewer edges."""

    items: Tensor  # (B, E) int64: items of the history, as rows of the table
    by_items: Tensor  # (B, E, K)
    said: list[list[Pair]]  # of each user: P pairs
    by_said: Tensor  # (B, P, K)


@runtime_checkable
class Attributing(Protocol):
    """A model that knows about what its parts moved, for a fraction of what leaving each out costs."""

    def moved(self, users: Sequence[UserState], table: ItemTable, rows: Sequence[Sequence[int]]) -> Moved:
        """Of each user's items, which are rows of the table; where a user has fewer, what is told of more is void."""
        ...


def left_out(
    model: Servable, users: Sequence[UserState], table: ItemTable, now: float, rows: Sequence[Sequence[int]]
) -> Moved:
    """`Attributing.moved` of any model, by leaving each edge out."""
    items = [list(dict.fromkeys(history_rows(user, table.row_of, MAX_INTERACTIONS))) for user in users]
    pairs = [places(user)[:MOST_PAIRS] for user in users]
    states = []
    for user, met, said in zip(users, items, pairs, strict=True):
        without = [without_item(user, table.item_ids[row]) for row in met]
        states += [user, *without, *(without_pair(user, *place) for place in said)]
    parts = [states[at : at + ENCODED_AT_ONCE] for at in range(0, len(states), ENCODED_AT_ONCE)]
    encoded = torch.cat([model.encode_users(part, table, now) for part in parts]).to(table.vectors.device).float()
    picked = table.vectors[padded(rows, str(table.vectors.device))[0]].float()  # (B, K, D)
    sizes = [1 + len(met) + len(said) for met, said in zip(items, pairs, strict=True)]
    moved = [(u[:1] - u[1:]) @ v.T for u, v in zip(encoded.split(sizes), picked, strict=True)]  # B times (E + P, K)
    return Moved(
        padded(items, str(picked.device))[0],
        together([by[: len(met)] for by, met in zip(moved, items, strict=True)]),
        [[user.reviews[at].pairs[place] for at, place in said] for user, said in zip(users, pairs, strict=True)],
        together([by[len(met) :] for by, met in zip(moved, items, strict=True)]),
    )


def places(user: UserState) -> list[tuple[int, int]]:
    """Of every pair, newest first: which of the reviews that the state holds, and which of its pairs."""
    return [(at, place) for at, slot in enumerate(user.reviews) for place in range(len(slot.pairs))]


def without_item(user: UserState, item_id: str) -> UserState:
    """The same user, had they not met the item; what they said of it stays."""
    kept = tuple(slot for slot in user.interactions if slot.item_id != item_id)
    return msgspec.structs.replace(user, interactions=kept)


def without_pair(user: UserState, at: int, place: int) -> UserState:
    """The same user, had they not said so."""
    pairs = user.reviews[at].pairs
    left = msgspec.structs.replace(user.reviews[at], pairs=pairs[:place] + pairs[place + 1 :])
    return msgspec.structs.replace(user, reviews=(*user.reviews[:at], left, *user.reviews[at + 1 :]))


def together(parts: Sequence[Tensor]) -> Tensor:
    """B times (E or fewer, K) -> (B, E, K), E at least 1, filled up with -inf."""
    filled = pad_sequence(list(parts), batch_first=True, padding_value=-torch.inf)
    return filled if filled.shape[1] else filled.new_full((len(parts), 1, filled.shape[2]), -torch.inf)
