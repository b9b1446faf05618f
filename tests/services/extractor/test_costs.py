"""services/extractor/costs.py, and prices in the settings: what is charged is counted, what is not known is not made up."""

from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.extractor import metrics
from services.extractor.costs import Usage, added, cost, discounted
from services.extractor.findings import Found
from services.extractor.providers import embeddings_of, provider_of
from services.extractor.settings import ExtractorSettings, OpenAISettings, Price
from services.extractor.worker import Worker
from shared.settings import read
from shared.space import Attribute, Space
from tests.services.extractor.doubles import answering, count, endpoint, settings_for

TOKENS = st.integers(0, 10_000_000)
PRICES = st.builds(Price, input=st.floats(0, 100), output=st.floats(0, 100), cached=st.none() | st.floats(0, 100))


def charged(usage: Any) -> dict[str, Any]:
    return {**answering(), "usage": usage}


async def find(general: Space, worker: Worker, usage: Any, **openai: Any) -> None:
    async with endpoint([(200, charged(usage))]) as running:
        provider = provider_of(settings_for(running.base_url, **openai), general, worker)
        assert await provider.find(["text"]) == [Found([], provider.name)]
        await provider.close()


async def test_tokens_are_counted_by_kind_and_cost_by_the_table(general: Space, worker: Worker) -> None:
    kinds = ("prompt", "cached", "completion")
    before = [count(metrics.TOKENS, kind, "gpt-4o-mini") for kind in kinds], count(metrics.COST, "gpt-4o-mini")
    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 600}}
    await find(general, worker, usage)
    after = [count(metrics.TOKENS, kind, "gpt-4o-mini") for kind in kinds]
    assert [b - a for a, b in zip(before[0], after, strict=True)] == [400, 600, 50]
    assert count(metrics.COST, "gpt-4o-mini") - before[1] == pytest.approx((400 * 0.15 + 600 * 0.075 + 50 * 0.6) / 1e6)


async def test_a_model_without_a_price_has_tokens_and_a_warning_but_no_costs(general: Space, worker: Worker) -> None:
    with structlog.testing.capture_logs() as logged:
        await find(general, worker, {"prompt_tokens": 10, "completion_tokens": 5}, model="of-our-own")
    assert [line["model"] for line in logged if "no price" in line["event"]] == ["of-our-own"]
    assert count(metrics.TOKENS, "prompt", "of-our-own") == 10
    assert REGISTRY.get_sample_value("finestream_extractor_cost_usd_total", {"model": "of-our-own"}) is None


@pytest.mark.parametrize(
    "usage", [None, {}, "much", {"prompt_tokens": "10"}, {"prompt_tokens": -1, "completion_tokens": 5}]
)
async def test_a_usage_of_nonsense_loses_no_answer(usage: Any, general: Space, worker: Worker) -> None:
    before = count(metrics.COST, "gpt-4o-mini")
    await find(general, worker, usage)
    assert count(metrics.COST, "gpt-4o-mini") == before


async def test_embeddings_are_counted_too(worker: Worker) -> None:
    space = Space("tiny", "text-embedding-3-small", 2, 2, (Attribute("other", ()),))
    answer = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [1, 0]}],
              "usage": {"prompt_tokens": 50, "total_tokens": 50}}  # fmt: skip
    before = count(metrics.COST, "text-embedding-3-small")
    async with endpoint([(200, answer)]) as running:
        settings = settings_for(running.base_url).model_copy(update={"embeddings": "openai"})
        embeddings = embeddings_of(settings, space, worker)
        await embeddings.embed(["text"], 8)
        await embeddings.close()
    assert count(metrics.TOKENS, "embedding", "text-embedding-3-small") >= 50
    assert count(metrics.COST, "text-embedding-3-small") - before == pytest.approx(50 * 0.02 / 1e6)


@given(PRICES, TOKENS, TOKENS, TOKENS)
def test_more_tokens_never_cost_less_and_none_cost_nothing(price: Price, prompt: int, cached: int, more: int) -> None:
    assert cost(price, Usage()) == 0
    less = Usage(prompt=prompt, cached=cached, completion=prompt)
    for kind in ("prompt", "cached", "completion"):
        usage = {"prompt": prompt, "cached": cached, "completion": prompt}
        assert cost(price, Usage(**{**usage, kind: usage[kind] + more})) >= cost(price, less)


@given(PRICES, st.floats(0, 1), TOKENS, TOKENS, TOKENS)
def test_a_share_of_the_price_is_that_share_of_the_cost(
    price: Price, share: float, prompt: int, cached: int, completion: int
) -> None:
    usage = Usage(prompt=prompt, cached=cached, completion=completion)
    assert cost(discounted(price, share), usage) == pytest.approx(share * cost(price, usage))
    assert cost(price, added(usage, usage)) == pytest.approx(2 * cost(price, usage))


def test_given_prices_win_over_ours_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESTREAM_OPENAI_PRICES", '{"gpt-4o-mini": {"input": 1}, "mine": {"input": 2, "output": 3}}')
    prices = OpenAISettings().prices
    assert prices["gpt-4o-mini"] == Price(input=1.0)
    assert prices["mine"] == Price(input=2.0, output=3.0)
    assert prices["text-embedding-3-small"].input == 0.02


@pytest.mark.parametrize(
    "written", ["{", "[]", "7", '{"m": 7}', '{"m": {"input": -1}}', '{"m": {"input": 1, "much": 2}}']
)
def test_a_wrong_table_is_one_line_and_exit_code_2(
    written: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINESTREAM_OPENAI_PRICES", written)
    with pytest.raises(SystemExit) as caught:
        read(ExtractorSettings)
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "FINESTREAM_OPENAI_PRICES" in line
