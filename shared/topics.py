"""Every topic: its name, what travels on it, how it is cleaned up. Nothing else names a topic."""

from dataclasses import dataclass

INTERACTIONS = "interactions"
REVIEWS = "reviews"
ITEMS = "items"
OPINIONS = "opinions"
ITEM_SEMANTICS = "item-semantics"
ITEM_EDGES = "item-edges"
ITEM_STATES = "item-states"
IMPRESSIONS = "impressions"
ERASURES = "erasures"

DEAD_LETTER_SUFFIX = ".dlq"


@dataclass(frozen=True)
class Topic:
    """How a topic is created. `compact` keeps the newest record of a key for ever; else time decides."""

    name: str
    compact: bool = False
    dead_letters: bool = True


ALL: tuple[Topic, ...] = (
    Topic(INTERACTIONS),
    Topic(REVIEWS),
    Topic(ITEMS, compact=True),
    Topic(OPINIONS),
    Topic(ITEM_SEMANTICS, compact=True),
    Topic(ITEM_EDGES),
    Topic(ITEM_STATES, compact=True, dead_letters=False),
    Topic(IMPRESSIONS, dead_letters=False),
    Topic(ERASURES, compact=True),
)

# The event log: the archiver keeps all of them.
ARCHIVED: tuple[str, ...] = tuple(topic.name for topic in ALL)

# What states are folded from: users' facts, then items'.
FOLDED: tuple[str, ...] = (INTERACTIONS, OPINIONS, ERASURES, ITEMS, ITEM_SEMANTICS, ITEM_EDGES)


def dead_letters(topic: str) -> str:
    """The dead-letter topic of `topic`."""
    return topic + DEAD_LETTER_SUFFIX
