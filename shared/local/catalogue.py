"""A generated catalogue with known tastes: what the demo streams when it is given no file.

Every item has a true quality per attribute; every user loves one category, likes a second, and cares about two
attributes. Users meet items by these tastes and write reviews about the attributes that they care about, so a
recommender that has learnt ranks items of the loved category, good in the cared-about attributes. The same
seed gives the same events, whatever the machine.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp
from typing import Final

from shared.events import Interaction, Item, Review
from shared.local import sentences

START: Final = 1_704_067_200.0  # 2024-01-01T00:00:00Z
DAY: Final = 86_400.0
REVIEW_SHARE: Final = 0.35
SESSION_STAYS: Final = 0.75  # how often the next item of a session is of the same category

# category -> (product noun, attributes that reviewers speak of, words of the description)
CATEGORIES: Final[dict[str, tuple[str, tuple[str, ...], str]]] = {
    "Headphones": ("headphones", ("sound", "comfort", "battery", "durability", "price"), "over-ear wireless audio"),
    "Speakers": ("speaker", ("sound", "battery", "size", "design", "price"), "portable bluetooth audio"),
    "Keyboards": ("keyboard", ("comfort", "durability", "ease of use", "design", "price"), "mechanical typing"),
    "Desk lamps": ("lamp", ("design", "ease of use", "durability", "size", "price"), "dimmable light for the desk"),
    "Backpacks": ("backpack", ("comfort", "durability", "size", "design", "price"), "travel and school bag"),
    "Cameras": ("camera", ("battery", "ease of use", "size", "durability", "price"), "photo and video outdoors"),
    "Coffee makers": ("coffee maker", ("ease of use", "durability", "design", "size", "price"), "kitchen brewing"),
    "Watches": ("watch", ("battery", "design", "comfort", "ease of use", "price"), "fitness tracking on the wrist"),
}
BRANDS: Final = ("Alder", "Brightwell", "Corva", "Dunmore", "Elmhurst", "Fjordal", "Granite & Co", "Halden")
SERIES: Final = ("One", "Pro", "Lite", "Max", "Air", "Studio", "Classic", "Go", "Plus", "Mini", "Neo", "Core", "Edge")


@dataclass(frozen=True)
class Taste:
    """What a user is known to want; the system is never told."""

    loved: str  # category
    liked: str  # category
    cares: dict[str, float]  # attribute -> weight


@dataclass(frozen=True)
class Product:
    item: Item
    category: str
    noun: str
    quality: dict[str, float]  # attribute -> -1 (bad) to 1 (good)
    appeal: float  # what makes it popular with everyone


@dataclass(frozen=True)
class Catalogue:
    products: list[Product]
    tastes: dict[str, Taste]
    events: list[Interaction | Review]  # in time order

    @property
    def items(self) -> list[Item]:
        return [product.item for product in self.products]

    @property
    def category_of(self) -> dict[str, str]:
        return {product.item.item_id: product.category for product in self.products}


def generate(seed: int = 1, items: int = 200, users: int = 350, interactions: int = 7000, days: int = 270) -> Catalogue:
    """A catalogue of `items`, and about `interactions` events of `users` spread over `days`, in time order."""
    rng = random.Random(seed)  # noqa: S311  # a data set, not a secret
    products = [_product(rng, number, items) for number in range(items)]
    tastes = {f"user-{number:04d}": _taste(rng) for number in range(users)}
    events: list[Interaction | Review] = []
    for user_id, taste in tastes.items():
        events += _history(rng, user_id, taste, products, _length(rng, interactions / users), days)
    events.sort(key=lambda event: (event.ts, event.user_id, event.item_id))
    return Catalogue(products, tastes, events)


def _product(rng: random.Random, number: int, count: int) -> Product:
    names = list(CATEGORIES)
    category = names[number * len(names) // count]
    noun, attributes, words = CATEGORIES[category]
    brand = rng.choice(BRANDS)
    title = f"{brand} {rng.choice(SERIES)} {100 + number} {noun}"
    quality = {attribute: rng.choice((-1.0, -0.6, 0.3, 0.7, 1.0)) for attribute in attributes}
    item = Item(
        item_id=f"item-{number:04d}", ts=START - rng.uniform(1, 30) * DAY, title=title, brand=brand,
        description=f"{title}: {words}. {_claims(rng, quality)}", categories=[category],
    )  # fmt: skip
    return Product(item, category, noun, quality, rng.gauss(0.0, 0.5))


def _claims(rng: random.Random, quality: dict[str, float]) -> str:
    good = [attribute for attribute, value in quality.items() if value >= 0.7]
    return f"Made for {rng.choice(good)}." if good else "An everyday choice."


def _taste(rng: random.Random) -> Taste:
    loved, liked = rng.sample(list(CATEGORIES), 2)
    attributes = CATEGORIES[loved][1]
    return Taste(loved, liked, {attribute: rng.uniform(1.0, 2.0) for attribute in rng.sample(attributes, 2)})


def _length(rng: random.Random, mean: float) -> int:
    """How much a user does: most little, some much (log-normal), never under 4."""
    return max(4, min(50, round(mean * rng.lognormvariate(-0.18, 0.6))))


def _history(
    rng: random.Random, user_id: str, taste: Taste, products: Sequence[Product], length: int, days: int
) -> Iterator[Interaction | Review]:
    seen: set[str] = set()
    category, joined = taste.loved, rng.uniform(0.0, days * 0.6)
    for number, (day, opens) in enumerate(_sessions(rng, length, joined, days)):
        if opens or rng.random() > SESSION_STAYS:
            category = rng.choices((taste.loved, taste.liked, rng.choice(list(CATEGORIES))), (0.62, 0.26, 0.12))[0]
        ts = START + day * DAY + number * 60.0 + rng.uniform(0.0, 30.0)
        product = _choose(rng, taste, [p for p in products if p.category == category and p.item.item_id not in seen])
        if product is None:
            continue
        seen.add(product.item.item_id)
        yield Interaction(event_id=f"{user_id}-i{number}", user_id=user_id, item_id=product.item.item_id, ts=ts)
        if rng.random() < REVIEW_SHARE:
            yield _review(rng, f"{user_id}-r{number}", user_id, taste, product, ts + rng.uniform(0.5, 9.0) * DAY)


def _sessions(rng: random.Random, length: int, joined: float, days: int) -> Iterator[tuple[float, bool]]:
    """The day of each of `length` events, and whether it opens a session of about three."""
    left = sorted((rng.uniform(joined, days) for _ in range(max(2, length // 3))), reverse=True)
    day = left.pop()
    for number in range(length):
        opens = bool(left) and rng.random() < len(left) / (length - number)
        if opens:
            day = left.pop()
        yield day, opens or number == 0


def _choose(rng: random.Random, taste: Taste, products: Sequence[Product]) -> Product | None:
    """One of the products with probability exp(2 x how well it suits), as in a choice model."""
    if not products:
        return None
    return rng.choices(products, [exp(2.0 * (suits(taste, p) + p.appeal)) for p in products])[0]


def suits(taste: Taste, product: Product) -> float:
    """How well the product does in what the user cares about, weighted."""
    return sum(weight * product.quality.get(attribute, 0.0) for attribute, weight in taste.cares.items()) / 2.0


def _review(rng: random.Random, review_id: str, user_id: str, taste: Taste, product: Product, ts: float) -> Review:
    weights = {attribute: 1.0 + 3.0 * taste.cares.get(attribute, 0.0) for attribute in product.quality}
    spoken = _sample(rng, weights, rng.choice((1, 1, 2, 2, 3)))
    said = [(attribute, product.quality[attribute] + rng.gauss(0.0, 0.25) > 0.0) for attribute in spoken]
    mood = sum(1 if good else -1 for _, good in said) + 0.7 * suits(taste, product)
    rating = float(max(1, min(5, round(3.2 + 1.2 * mood + rng.gauss(0.0, 0.4)))))
    words = {
        "thing": product.noun, "brand": product.item.brand, "title": product.item.title,
        "weeks": rng.randint(2, 30), "person": rng.choice(sentences.PEOPLE),
    }  # fmt: skip
    opinions = [rng.choice(sentences.OPINIONS[attribute][0 if good else 1]) for attribute, good in said]
    closings, titles = _mood_words(rating)
    text = " ".join(part for part in (rng.choice(sentences.OPENINGS), *opinions, rng.choice(closings)) if part)
    return Review(
        review_id=review_id, user_id=user_id, item_id=product.item.item_id, ts=ts,
        text=text.format(**words), title=rng.choice(titles).format(**words), rating=rating,
    )  # fmt: skip


def _mood_words(rating: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if rating >= 4:
        return sentences.CLOSINGS_GOOD, sentences.TITLES_GOOD
    if rating <= 2:
        return sentences.CLOSINGS_BAD, sentences.TITLES_BAD
    return sentences.CLOSINGS_MIXED, sentences.TITLES_MIXED


def _sample(rng: random.Random, weights: dict[str, float], count: int) -> list[str]:
    left, chosen = dict(weights), []
    for _ in range(min(count, len(left))):
        name = rng.choices(list(left), list(left.values()))[0]
        chosen.append(name)
        del left[name]
    return chosen
