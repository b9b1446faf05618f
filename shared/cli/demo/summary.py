"""What a demo found, as one JSON object."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from shared.cli.demo.taste import Learnt
from shared.cli.demo.training import Trained
from shared.local.verify import Accounts, Archived


@dataclass
class Summary:
    """Filled step by step; counts of the data set are its own, those of the load and the live part lie apart."""

    data: str
    interactions_in: int = 0
    reviews_in: int = 0
    items_in: int = 0
    opinions: int = 0  # reviews that were read for opinions
    opinion_pairs: int = 0
    dead_letters: int = 0
    dead_letter_reasons: dict[str, int] = field(default_factory=dict)
    users: int = 0
    items: int = 0
    lost: int = -1  # of everything sent; known at the end
    unanswered_reviews: int = -1
    states_equal: bool = False
    states_compared: int = 0
    trained: Trained | None = None
    rankings: list[dict[str, Any]] = field(default_factory=list)
    freshness: dict[str, Any] = field(default_factory=dict)
    taste: Learnt | None = None
    live: dict[str, Any] = field(default_factory=dict)
    sent_besides: dict[str, int] = field(default_factory=dict)  # by the load, the probes and the live part
    seconds: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def note_data_set(self, found: Archived, accounts: Accounts) -> None:
        """What became of the data set, before anything else was sent."""
        self.opinions, self.opinion_pairs = len(found.pairs), sum(found.pairs.values())
        self.dead_letters, self.dead_letter_reasons = len(accounts.dead), dict(Counter(accounts.dead.values()))
        self.users, self.items = len(found.users), len(found.items)

    def note_end(self, accounts: Accounts, compared: int, differing: list[str]) -> None:
        """What became of everything."""
        self.lost, self.unanswered_reviews = accounts.lost_count, len(accounts.unanswered)
        self.states_compared, self.states_equal = compared, not differing
        for topic, ids in accounts.lost.items():
            self.problems.append(f"lost of {topic}: {len(ids)}, for example {', '.join(ids[:3])}")
        if accounts.unanswered:
            self.problems.append(
                f"{len(accounts.unanswered)} reviews have neither opinions nor a dead letter, for example"
                f" {', '.join(accounts.unanswered[:3])}"
            )
        if differing:
            self.problems.append(
                f"{len(differing)} of {compared} live states are not the fold of the archive, for example"
                f" {', '.join(differing[:3])}"
            )

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        trained = values.pop("trained") or {}
        report = trained.pop("report", {})
        if self.taste is not None:
            values["taste"]["holds"] = self.taste.holds
        return {**values, "model": report.get("model"), "baselines": report.get("baselines"), "published": trained}
