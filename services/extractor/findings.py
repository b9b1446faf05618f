"""What a provider finds in a text, before it is checked, mapped to an attribute and embedded."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from shared.errors import FinestreamError, Unavailable

Span: TypeAlias = tuple[int, int]  # code points [start, end)
AT_ONCE: Final = 64  # texts of a file that a provider is given together
# Why a provider gave nothing for a text; labels of a metric.
Failure = Literal[
    "refusal", "content_filter", "truncated", "invalid_json", "wrong_schema", "empty_answer", "rejected",
    "unsupported_language",
]  # fmt: skip


def overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


@dataclass(frozen=True, slots=True)
class Finding:
    """One opinion as the provider words it. Nothing in it is trusted.

    `aspect` is what is judged, in words of the text or other ones; empty for the whole thing. `attribute` is a name
    of the attribute set, from a provider that chose one.
    `near` is where the quote should begin (code points); -1: not known. Stronger opinions are kept first.
    `aspect_at` and `opinion_at` are where the words lie, from a provider that knows; None: nowhere, or not known.
    """

    aspect: str
    opinion: str
    polarity: int
    quote: str
    near: int = -1
    strength: float = 1.0
    aspect_at: Span | None = None
    opinion_at: Span | None = None
    attribute: str = ""


class NothingUsable(FinestreamError):
    """The provider answered, but not with opinions, and asking again would not help.

    `by`: who it was, where the provider that was asked may have left the text to another.
    """

    def __init__(self, reason: Failure, by: str = "") -> None:
        super().__init__(f"the provider's answer cannot be used: {reason}")
        self.reason: Failure = reason
        self.by = by


@dataclass(frozen=True, slots=True)
class Found:
    """What a text holds, and who found it: a provider may have to leave some texts to another."""

    findings: list[Finding]
    by: str


Answered = Found | NothingUsable | Unavailable


class Provider(Protocol):
    """What finds opinions."""

    name: str  # provider and model, for the record

    async def find(self, texts: Sequence[str]) -> list[Answered]:
        """One answer a text: its findings, why there are none, or that it must be asked for again later."""
        ...

    async def close(self) -> None:
        """Gives back what it holds open."""
        ...


async def answers_of(provider: Provider, texts: Sequence[str]) -> AsyncIterator[Found | NothingUsable]:
    """The answers to many texts, in order, AT_ONCE asked together. Raises Unavailable."""
    for at in range(0, len(texts), AT_ONCE):
        for answer in await provider.find(texts[at : at + AT_ONCE]):
            if isinstance(answer, Unavailable):
                raise answer
            yield answer
