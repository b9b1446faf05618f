"""What happens while one watches: a newcomer, a complaint, and a new item, each with its figures."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgspec

from shared.cli.demo.failed import DemoFailed
from shared.cli.tables import ranking_of
from shared.client import Client
from shared.events import Interaction, Item, Review
from shared.graph.state import UserState
from shared.local import sentences
from shared.local.ledger import Ledger, Sent
from shared.pb.finestream.v1.position_pb2 import Position

SHOWN: Final = 10
DEEP: Final = 100  # how far down a moved item is looked for
DEADLINE_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05
# A space's attribute -> the generated sentences that complain about it.
COMPLAINTS: Final = {
    "sound": "sound", "price": "price", "durability": "durability", "comfort": "comfort", "ease of use": "ease of use",
    "size and fit": "size", "appearance": "design", "performance": "battery", "quality": "durability",
}  # fmt: skip


@dataclass(frozen=True)
class Newcomer:
    """A user never seen clicks two items; the next Rank reflects it."""

    clicked: list[str]
    seconds: float  # from the second Publish's answer to Rank's
    before: dict[str, Any]
    after: dict[str, Any]
    moved: int  # of the first SHOWN places, how many show another item than before
    reflects: bool  # the watermark is the second click's time, and the clicked items are left out

    @property
    def holds(self) -> bool:
        return self.reflects and self.after["rung"] == "full"


@dataclass(frozen=True)
class Complaint:
    """A review that complains about an attribute changes its writer's ranking."""

    user: str
    item: str
    attribute: str
    text: str
    seconds: float
    understood: list[str]  # the pairs that were found in it
    moves: list[dict[str, Any]] = field(default_factory=list)  # item, from place, to place

    @property
    def holds(self) -> bool:
        return bool(self.moves) and bool(self.understood)


@dataclass(frozen=True)
class NewItem:
    """An item with only a text and one review: ranked within seconds."""

    item: str
    title: str
    seconds_to_rank: float  # from before its Publish to the first Rank that scores it
    seconds_to_review: float  # ... until its review has become its edge
    place: int  # in the whole catalogue, for `user`; 0: not found
    of: int
    user: str

    @property
    def holds(self) -> bool:
        return self.place > 0


class Live:
    """Publishes through the gateway; everything it sends goes into the ledger."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger

    async def newcomer(self, clicked: Sequence[str]) -> Newcomer:
        user = "live-newcomer"
        before = ranking_of(user, await self._client.rank(user, SHOWN))
        clicks = [
            Interaction(event_id=f"live-i{number}", user_id=user, item_id=item_id, ts=_now())
            for number, item_id in enumerate(clicked)
        ]
        positions = [await self._publish(click) for click in clicks]
        started = time.monotonic()
        answer = ranking_of(user, await self._client.rank(user, SHOWN, after=positions, timeout=DEADLINE_SECONDS))
        seconds = time.monotonic() - started
        reflects = answer["watermark"] >= clicks[-1].ts and not set(clicked) & set(answer["items"])
        moved = sum(a != b for a, b in zip(before["items"], answer["items"], strict=False))
        return Newcomer(list(clicked), round(seconds, 3), before, answer, moved, reflects)

    async def complaint(self, user: str) -> Complaint:
        state = (await self._client.users([user]))[user]
        attribute, item_id = _sore_point(state)
        text = " ".join(sentences.OPINIONS[COMPLAINTS[attribute]][1][:2]).format(thing="product")
        review = Review(
            review_id="live-r0", user_id=user, item_id=item_id, ts=_now(), text=text, title="Disappointed", rating=1.0
        )
        before = [item.item_id for item in (await self._client.rank(user, DEEP)).items]
        started = time.monotonic()
        position = await self._publish(review)
        answer = await self._client.rank(user, DEEP, after=[position], timeout=DEADLINE_SECONDS)
        seconds = time.monotonic() - started
        slots = (await self._client.users([user]))[user].reviews
        pairs = [pair for slot in slots if slot.review_id == review.review_id for pair in slot.pairs]
        understood = [f"{pair.attribute}: {pair.phrase} ({pair.polarity:+d})" for pair in pairs]
        moves = _moves(before, [item.item_id for item in answer.items])
        return Complaint(user, item_id, attribute, text, round(seconds, 3), understood, moves)

    async def new_item(self, like: Review, catalogue_size: int) -> NewItem:
        """An item much like the one that `like` praises, reviewed in the same words, ranked for who wrote them."""
        user, item = like.user_id, await self._item_like(like)
        review = Review(
            review_id="live-r1", user_id="live-reviewer", item_id=item.item_id, ts=_now(), text=like.text,
            title=like.title, rating=5.0,
        )  # fmt: skip
        started = time.monotonic()
        position = await self._publish(item)
        await self._publish(review)
        await self._until_ranked(user, item.item_id, position)
        ranked = time.monotonic() - started
        await self._until_reviewed(item.item_id)
        reviewed = time.monotonic() - started
        answer = await self._client.rank(user, min(1000, catalogue_size + 1), timeout=DEADLINE_SECONDS)
        ids = [scored.item_id for scored in answer.items]
        place = ids.index(item.item_id) + 1 if item.item_id in ids else 0
        return NewItem(item.item_id, item.title, round(ranked, 3), round(reviewed, 3), place, len(ids), user)

    async def _item_like(self, like: Review) -> Item:
        """As the praised item is described; where nothing describes it, in the words of the praise."""
        node = (await self._client.items([like.item_id])).get(like.item_id)
        if node is None or node.facts is None:
            title = like.title or "Just arrived"
            return Item(item_id="live-item", ts=_now(), title=title, description=like.text[:300])
        facts = node.facts
        return Item(
            item_id="live-item", ts=_now(), title=f"{facts.title} (new)", description=facts.description,
            brand=facts.brand, categories=list(facts.categories),
            price=msgspec.UNSET if facts.price is None else facts.price,
        )  # fmt: skip

    async def _until_ranked(self, user: str, item_id: str, position: Position) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            answer = await self._client.rank(user, 1, candidates=[item_id], after=[position], timeout=DEADLINE_SECONDS)
            while [item.item_id for item in answer.items] != [item_id]:
                await asyncio.sleep(POLL_SECONDS)
                answer = await self._client.rank(user, 1, candidates=[item_id])

    async def _until_reviewed(self, item_id: str) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                node = (await self._client.items([item_id])).get(item_id)
                if node is not None and node.reviews:
                    return
                await asyncio.sleep(POLL_SECONDS)

    async def _publish(self, event: Sent) -> Position:
        position = await self._client.publish(event)
        self._ledger.add(event, position)
        return position


def figures(part: Newcomer | Complaint | NewItem) -> dict[str, Any]:
    return {**asdict(part), "holds": part.holds}


def _sore_point(state: UserState) -> tuple[str, str]:
    """The attribute that the user speaks of most, and their newest item. Raises DemoFailed without a history."""
    said = [pair.attribute for slot in state.reviews for pair in slot.pairs if pair.attribute in COMPLAINTS]
    items = [slot.item_id for slot in state.interactions] + [slot.other_id for slot in state.reviews]
    if not items:
        raise DemoFailed(f"{state.user_id} has no history to complain about")
    return max(sorted(set(said)), key=said.count, default="price"), items[0]


def _moves(before: Sequence[str], after: Sequence[str]) -> list[dict[str, Any]]:
    """Items whose place has changed, from the top down; one that came from below has no `from`."""
    place = {item_id: number for number, item_id in enumerate(before, 1)}
    return [
        {"item": item_id, "from": place.get(item_id), "to": number}
        for number, item_id in enumerate(after, 1)
        if place.get(item_id) != number
    ]


def _now() -> float:
    return time.time()
