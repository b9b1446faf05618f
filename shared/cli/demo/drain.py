"""Waits until all that was sent has gone through: answered, folded, archived, and nothing moves any more."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from shared import archive, topics
from shared.cli.demo.failed import DemoFailed
from shared.cli.screen import Screen
from shared.local.ledger import Ledger
from shared.local.watch import Watch, behind, total
from shared.log_tail import Places

POLL_SECONDS: Final = 0.5
STILL_SECONDS: Final = 1.0  # nothing moves for so long: longer than any service holds a batch back
STUCK_SECONDS: Final = 120.0
_WATCHED: Final = (*topics.ARCHIVED, topics.dead_letters(topics.REVIEWS), topics.dead_letters(topics.INTERACTIONS))


@dataclass(frozen=True)
class Progress:
    """How far it is; two equal ones some time apart mean that nothing moves."""

    ends: Places
    unarchived: int
    lags: dict[str, int]

    @property
    def answered_reviews(self) -> int:
        return total(self.ends, topics.OPINIONS) + total(self.ends, topics.dead_letters(topics.REVIEWS))

    def unfolded(self) -> int:
        """Facts of users whose edge has not reached the item side. Repeats only make the edges more."""
        refused = total(self.ends, topics.dead_letters(topics.INTERACTIONS))
        facts = total(self.ends, topics.INTERACTIONS) - refused + total(self.ends, topics.OPINIONS)
        return max(0, facts - total(self.ends, topics.ITEM_EDGES))

    def is_done(self, reviews: int) -> bool:
        waits = self.unarchived or self.unfolded() or any(self.lags.values())
        return not waits and self.answered_reviews >= reviews

    def sentence(self) -> str:
        lags = ", ".join(f"{group} {lag}" for group, lag in self.lags.items() if lag) or "none"
        return (
            f"{self.answered_reviews} reviews answered, {self.unfolded()} facts not folded, {self.unarchived} records"
            f" not archived, lags: {lags}"
        )


async def until_drained(watch: Watch, archive_url: str, ledger: Ledger, screen: Screen, title: str) -> None:
    """Returns when every record has had its effect. Raises DemoFailed when nothing moves for STUCK_SECONDS."""
    reviews = ledger.count(topics.REVIEWS)
    last, since = await _progress(watch, archive_url), time.monotonic()
    with screen.progress(title, reviews) as bar:
        while not (last.is_done(reviews) and time.monotonic() - since >= STILL_SECONDS):
            if time.monotonic() - since > STUCK_SECONDS:
                raise DemoFailed(f"nothing moves for {STUCK_SECONDS:g} s: {last.sentence()}")
            await asyncio.sleep(POLL_SECONDS)
            now = await _progress(watch, archive_url)
            if now != last:
                last, since = now, time.monotonic()
            bar.at(min(reviews, last.answered_reviews))


async def _progress(watch: Watch, archive_url: str) -> Progress:
    ends = await watch.ends(_WATCHED)
    done = await asyncio.to_thread(archive.offsets, archive_url, space=watch.space)
    archived = {topic: partitions for topic, partitions in ends.items() if topic in topics.ARCHIVED}
    return Progress(ends, behind(archived, done), await watch.lags())
