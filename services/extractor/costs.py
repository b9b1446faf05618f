"""What answers cost: tokens as the endpoint charged them, and USD by the operator's table of prices."""

from dataclasses import dataclass
from typing import Any, Final

from services.extractor import metrics
from services.extractor.settings import Price

TOKENS_PRICED: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer, each of one kind: `cached` are of a prompt that the endpoint had seen before."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    embedding: int = 0


def added(one: Usage, other: Usage) -> Usage:
    return Usage(
        one.prompt + other.prompt, one.cached + other.cached, one.completion + other.completion,
        one.embedding + other.embedding,
    )  # fmt: skip


def cost(price: Price, usage: Usage) -> float:
    """USD."""
    cached = price.input if price.cached is None else price.cached
    read = (usage.prompt + usage.embedding) * price.input + usage.cached * cached
    return (read + usage.completion * price.output) / TOKENS_PRICED


def discounted(price: Price, share: float) -> Price:
    """Of the price only this share."""
    cached = None if price.cached is None else share * price.cached
    return Price(input=share * price.input, output=share * price.output, cached=cached)


def most(price: Price, usage: Usage) -> float:
    """USD that the usage costs at most, whatever of its prompt the endpoint has seen before."""
    dearest = max(price.input, price.cached or 0.0)
    return cost(Price(input=dearest, output=price.output), usage)


def usage_of_completion(answer: Any) -> Usage | None:
    """None where it is not known. `answer` is what the client made of any JSON: no field of it is sure to be there."""
    usage = getattr(answer, "usage", None)
    prompt, completion = _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")
    if prompt is None or completion is None:
        return None
    cached = min(prompt, _tokens(getattr(usage, "prompt_tokens_details", None), "cached_tokens") or 0)
    return Usage(prompt=prompt - cached, cached=cached, completion=completion)


def usage_of_embeddings(answer: Any) -> Usage | None:
    tokens = _tokens(getattr(answer, "usage", None), "total_tokens")
    return None if tokens is None else Usage(embedding=tokens)


def count(model: str, price: Price | None, usage: Usage) -> None:
    """Adds to the metrics; what a model without a price costs stays unknown."""
    for kind in ("prompt", "cached", "completion", "embedding"):
        tokens = getattr(usage, kind)
        if tokens:
            metrics.TOKENS.labels(kind, model).inc(tokens)
    if price is not None:
        metrics.COST.labels(model).inc(cost(price, usage))


def charged() -> tuple[dict[str, int], float | None]:
    """Tokens by kind and USD that this process has counted so far; None: none, or by a model without a price."""
    tokens = {kind: int(tokens) for kind, tokens in metrics.by_label(metrics.TOKENS, "kind").items()}
    usd = metrics.by_label(metrics.COST, "model")
    return tokens, sum(usd.values()) if usd else None


def _tokens(usage: Any, name: str) -> int | None:
    number = getattr(usage, name, None)
    return number if isinstance(number, int) and number >= 0 else None
