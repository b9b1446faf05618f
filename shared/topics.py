"""Every topic: its name, what travels on it, how it is cleaned up. Nothing else names a topic.

What is derived lives in a space and has a topic of its own there (`in_space`), on Kafka and in the archive, so that
spaces live side by side. A process works in one space: inside it topics have their plain names.
"""

from dataclasses import dataclass
from functools import lru_cache

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
    of_space: bool = False


ALL: tuple[Topic, ...] = (
    Topic(INTERACTIONS),
    Topic(REVIEWS),
    Topic(ITEMS, compact=True),
    Topic(OPINIONS, of_space=True),
    Topic(ITEM_SEMANTICS, compact=True, of_space=True),
    Topic(ITEM_EDGES, of_space=True),
    Topic(ITEM_STATES, compact=True, dead_letters=False, of_space=True),
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


_OF_SPACE = frozenset(name for t in ALL if t.of_space for name in (t.name, dead_letters(t.name)))


@lru_cache(maxsize=1024)
def in_space(topic: str, space: str) -> str:
    """The topic's name outside of a process. What several spaces share has the same name in all of them."""
    if topic not in _OF_SPACE:
        return topic
    name = topic.removesuffix(DEAD_LETTER_SUFFIX)
    return f"{name}.{space}{topic.removeprefix(name)}"


@lru_cache(maxsize=1024)
def plain(name: str, space: str) -> str:
    """The inverse of in_space. A name of another space stays as it is."""
    topic = name.replace(f".{space}", "", 1)
    return topic if topic in _OF_SPACE else name


def kind_of(name: str) -> str:
    """The plain name of a topic of any space: it says what travels there."""
    kind = name.split(".", 1)[0]
    return kind if kind in _OF_SPACE else name
