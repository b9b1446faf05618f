"""What a file would cost, without a call."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from services.extractor import costs
from services.extractor.costs import Usage
from services.extractor.openai_embeddings import CHARS_A_TOKEN
from services.extractor.openai_endpoint import most_usage
from services.extractor.openai_provider import Asking
from services.extractor.settings import OpenAISettings
from shared.events import content_hash
from shared.service import WrongSetting
from shared.space import Space

ANSWER_TOKENS: Final = 100  # of two or three pairs as JSON
EXPECTED: Final = (
    f"a token for {CHARS_A_TOKEN} bytes sent, {ANSWER_TOKENS} tokens an answer, no discount for known prompts"
)


class Estimate(Struct, frozen=True):
    texts: int  # different ones: no text is paid for twice
    expected_usd: float
    most_usd: float


def estimate(texts: Iterable[str], settings: OpenAISettings, space: Space, share: float = 1.0) -> Estimate:
    """At this share of the price. Raises WrongSetting for a model without one."""
    price = settings.prices.get(settings.model)
    if price is None:
        raise WrongSetting(f"FINESTREAM_OPENAI_PRICES: {settings.model} has no price")
    price = costs.discounted(price, share)
    asking = Asking(settings, space)
    seen: set[str] = set()
    expected = most = 0.0
    for text in texts:
        key = content_hash(text)
        if key not in seen:
            seen.add(key)
            usage = most_usage(asking.request(asking.read(text)), settings)
            expected += costs.cost(price, Usage(prompt=usage.prompt // CHARS_A_TOKEN, completion=ANSWER_TOKENS))
            most += costs.most(price, usage)
    return Estimate(len(seen), expected, most)
