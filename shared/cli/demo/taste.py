"""Was the taste learnt? The generated users' true tastes against what Rank gives them."""

import random
from dataclasses import dataclass
from statistics import mean
from typing import Final

from shared.client import Client
from shared.local.catalogue import Catalogue, Taste, suits

USERS: Final = 60
K: Final = 10
STRANGER: Final = "someone-never-seen"


@dataclass(frozen=True)
class Learnt:
    """Shares of the K ranked items that are of the user's loved category, and how well they suit, on average.

    `chance` is the share of the items that the user has not met; `popular` ranks everyone alike. `suits_*` is
    measured within the loved category, so it shows the attributes that were learnt and not the category again.
    """

    users: int
    hit_rate: float
    popular: float
    chance: float
    suits_ranked: float
    suits_category: float

    @property
    def holds(self) -> bool:
        return self.hit_rate > max(self.popular, self.chance)


async def measure(client: Client, catalogue: Catalogue) -> Learnt:
    """Rank a sample of the generated users and compare."""
    rng = random.Random(3)  # noqa: S311  # which users are looked at, not a secret
    sample = rng.sample(sorted(catalogue.tastes), min(USERS, len(catalogue.tastes)))
    popular = [item.item_id for item in (await client.rank(STRANGER, K)).items]
    ranked = {user: [item.item_id for item in (await client.rank(user, K)).items] for user in sample}
    tastes = {user: catalogue.tastes[user] for user in sample}
    return Learnt(
        len(sample),
        mean(_share(catalogue, tastes[user], ranked[user]) for user in sample),
        mean(_share(catalogue, taste, popular) for taste in tastes.values()),
        mean(_share(catalogue, tastes[user], _unseen(catalogue, user)) for user in sample),
        mean(_suits(catalogue, tastes[user], ranked[user]) for user in sample),
        mean(_suits(catalogue, tastes[user], _unseen(catalogue, user)) for user in sample),
    )


def _unseen(catalogue: Catalogue, user: str) -> list[str]:
    """What Rank may give the user: what they have met they like, and it is left out."""
    seen = {event.item_id for event in catalogue.events if event.user_id == user}
    return [item.item_id for item in catalogue.items if item.item_id not in seen]


def _share(catalogue: Catalogue, taste: Taste, item_ids: list[str]) -> float:
    return mean(catalogue.category_of.get(item_id) == taste.loved for item_id in item_ids) if item_ids else 0.0


def _suits(catalogue: Catalogue, taste: Taste, item_ids: list[str]) -> float:
    """Mean of suits() over the items of the loved category; 0 where there is none."""
    loved = [p for p in catalogue.products if p.item.item_id in set(item_ids) and p.category == taste.loved]
    return mean(suits(taste, product) for product in loved) if loved else 0.0
