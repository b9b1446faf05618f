"""services/extractor/budget.py, over_budget.py: never more than the budget, never forgotten, and nothing is lost."""

import asyncio
import random
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.extractor import metrics
from services.extractor.budget import FILE, Budget, OverBudget, Reserved, Taken
from services.extractor.extraction import Extraction
from services.extractor.findings import Found, Provider
from services.extractor.over_budget import OfflineOverBudget
from services.extractor.providers import embeddings_of, endpoint_of, provider_of
from services.extractor.settings import ExtractorSettings
from services.extractor.worker import Worker
from shared.errors import Unavailable
from shared.service import WrongSetting
from shared.space import Attribute, Space
from tests.services.extractor.doubles import Reply, Saying, Scripted, answering, count, endpoint, settings_for

DAY = date(2026, 3, 1)
PAIR = ("sound", "warm", "positive", "warm")
CENTS = st.integers(1, 40).map(lambda cents: cents / 100)


def held(folder: Path) -> float:
    return msgspec.json.decode((folder / FILE).read_bytes(), type=Taken).usd


class Days:
    """A calendar that is turned by hand."""

    def __init__(self) -> None:
        self.day = DAY

    def __call__(self) -> date:
        return self.day


@pytest.fixture
def days() -> Days:
    return Days()


async def spend(budget: Budget, usd: float, of: float | None = None) -> None:
    budget.settle(await budget.reserve(usd if of is None else of), usd)


async def test_what_is_spent_is_left_no_more_and_the_next_day_all_is(tmp_path: Path, days: Days) -> None:
    budget = Budget(tmp_path, 1.0, days)
    await spend(budget, 0.7)
    assert budget.left() == pytest.approx(0.3)
    with pytest.raises(OverBudget, match="goes on at 00:00 UTC"):
        await budget.reserve(0.4)
    days.day += timedelta(days=1)
    assert budget.left() == 1.0
    await spend(budget, 1.0)


async def test_it_outlives_a_restart_and_a_kill_and_a_clock_that_is_set_back(tmp_path: Path, days: Days) -> None:
    budget = Budget(tmp_path, 1.0, days)
    await spend(budget, 0.5, of=0.6)
    budget.close()
    assert held(tmp_path) == pytest.approx(0.5), "a clean stop gives back what it did not spend"
    killed = Budget(tmp_path, 1.0, days)
    await killed.reserve(0.2)
    again = Budget(tmp_path, 1.0, days)
    assert again.left() == pytest.approx(0.3), "a call in flight counts with the most that it costs"
    days.day -= timedelta(days=1)
    with pytest.raises(OverBudget):
        await Budget(tmp_path, 1.0, days).reserve(0.4)


async def test_processes_that_share_the_folder_share_the_budget(tmp_path: Path, days: Days) -> None:
    one, other = Budget(tmp_path, 1.0, days), Budget(tmp_path, 1.0, days)
    await spend(one, 0.5)
    await spend(other, 0.4)
    with pytest.raises(OverBudget):
        await one.reserve(0.2)
    assert held(tmp_path) <= 1.0


async def test_who_finds_no_room_waits_for_what_calls_in_flight_give_back(tmp_path: Path, days: Days) -> None:
    budget = Budget(tmp_path, 1.0, days)
    reserved = await budget.reserve(0.9)
    waiting = asyncio.create_task(budget.reserve(0.5))
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.settle(reserved, 0.1)
    assert await waiting == Reserved(DAY, 0.5)


async def test_who_comes_after_settles_what_the_one_before_reserved(tmp_path: Path, days: Days) -> None:
    before = Budget(tmp_path, 1.0, days)
    reserved = before.reserve_now(0.6)
    assert reserved is not None
    assert before.room() == pytest.approx(0.4)
    assert before.reserve_now(0.5) is None
    before.close()
    after = Budget(tmp_path, 1.0, days)
    after.resume(reserved)
    assert (after.left(), after.room()) == (pytest.approx(1.0), pytest.approx(0.4))
    after.settle(reserved, 0.1)
    assert after.room() == pytest.approx(0.9)
    after.close()
    assert held(tmp_path) == pytest.approx(0.1)


async def test_what_was_reserved_yesterday_is_none_of_todays(tmp_path: Path, days: Days) -> None:
    reserved = Budget(tmp_path, 1.0, days).reserve_now(0.6)
    assert reserved is not None
    days.day += timedelta(days=1)
    after = Budget(tmp_path, 1.0, days)
    after.resume(reserved)
    after.settle(reserved, 0.1)
    assert after.room() == 1.0


@settings(deadline=None, max_examples=50)  # it writes files
@given(st.lists(st.tuples(CENTS, st.floats(0, 1), st.booleans()), max_size=40), st.randoms())
def test_spending_never_exceeds_the_budget_whatever_is_in_flight_cut_or_killed(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[float, float, bool]], chance: random.Random
) -> None:
    async def run() -> None:
        folder = tmp_path_factory.mktemp("budget")
        budgets = [Budget(folder, 1.0, lambda: DAY) for _ in range(2)]
        spent = 0.0

        async def call(most: float, share: float, is_cut: bool) -> None:
            nonlocal spent
            number = chance.randrange(2)
            try:
                reserved = await budgets[number].reserve(most)
            except OverBudget:
                return
            usd = most if is_cut else most * share
            await asyncio.sleep(0)
            budgets[number].settle(reserved, usd)
            spent += usd
            assert spent <= 1.0 + 1e-6

        await asyncio.gather(*(call(*one) for one in calls))
        assert held(folder) >= spent - 1e-6, "what was spent is in the file"
        assert held(folder) <= 1.0 + 1e-6
        for budget in budgets:
            budget.close()
        assert held(folder) == pytest.approx(spent, abs=1e-6)

    asyncio.run(run())


@pytest.mark.parametrize(
    "bytes_", [b"", b"{", b'{"day": "today", "usd": 1}', b'{"day": "2026-03-01", "usd": -1}', b"\xff"]
)
def test_a_damaged_file_is_a_wrong_setting_of_one_line(bytes_: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(bytes_)
    with pytest.raises(WrongSetting, match=r"FINESTREAM_EXTRACTOR_STATE.*does not say what was spent") as caught:
        endpoint_of(budgeted("http://127.0.0.1:1/v1", tmp_path, 1.0))
    assert "\n" not in str(caught.value)
    assert (tmp_path / FILE).read_bytes() == bytes_


async def test_a_file_that_is_damaged_later_makes_the_stream_wait(tmp_path: Path, days: Days) -> None:
    budget = Budget(tmp_path, 1.0, days)
    (tmp_path / FILE).write_bytes(b"{")
    with pytest.raises(Unavailable, match="cannot be kept"):
        await budget.reserve(0.1)
    with pytest.raises(Unavailable, match="cannot be kept"):
        budget.room()
    assert budget.left() != budget.left(), "not a number"


def test_a_folder_that_cannot_be_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WrongSetting, match="FINESTREAM_EXTRACTOR_STATE"):
        endpoint_of(budgeted("http://127.0.0.1:1/v1", tmp_path / "file", 1.0))


def test_a_budget_for_a_model_without_a_price_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(WrongSetting, match="of-our-own has no price"):
        endpoint_of(budgeted("http://127.0.0.1:1/v1", tmp_path, 1.0, model="of-our-own"))


def budgeted(base_url: str, folder: Path, usd: float, **openai: Any) -> ExtractorSettings:
    return settings_for(base_url, daily_budget_usd=usd, **openai).model_copy(update={"state": folder})


def costing(prompt: int, completion: int) -> dict[str, Any]:
    return {**answering(PAIR), "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


async def test_many_calls_at_once_never_spend_more_than_the_budget(
    general: Space, worker: Worker, tmp_path: Path
) -> None:
    def script(_: dict[str, Any]) -> Scripted:
        charged.append((600 * 0.15 + 300 * 0.6) / 1e6)
        return Reply(200, costing(600, 300), delay_seconds=0.02)

    charged: list[float] = []
    async with endpoint(script) as running:
        provider = provider_of(budgeted(running.base_url, tmp_path, 0.01, concurrency=64), general, worker)
        answers = await provider.find([f"warm {n}" for n in range(80)])
        assert running.most_at_once > 4
        await provider.close()
    done = [answer for answer in answers if isinstance(answer, Found)]
    assert sum(charged) <= 0.01
    assert sum(charged) > 0.008, "and most of it is spent"
    assert len(done) == len(charged)
    assert all(isinstance(answer, OverBudget) for answer in answers if not isinstance(answer, Found))
    assert held(tmp_path) == pytest.approx(sum(charged))


@pytest.mark.parametrize(
    ("reply", "is_charged"),
    [
        (Reply(200, costing(1, 1), cut=True), True), (Reply(200, costing(1, 1), delay_seconds=5.0), True),
        (Reply(200, "<html>"), True), (Reply(200, {}), True), (Reply(504, "{}"), True), (Reply(500, "{}"), False),
        (Reply(429, "{}"), False), (Reply(400, "{}"), False),
    ],
)  # fmt: skip
async def test_a_call_whose_usage_is_not_known_has_cost_the_most_that_it_can(
    reply: Reply, is_charged: bool, general: Space, worker: Worker, tmp_path: Path
) -> None:
    async with endpoint([reply]) as running:
        given = budgeted(running.base_url, tmp_path, 1.0, max_retries=0, timeout_seconds=0.3)
        provider = provider_of(given, general, worker)
        await provider.find(["warm"])
        await provider.close()
    most_of_answer = 700 * 0.6 / 1e6
    assert (held(tmp_path) > most_of_answer) if is_charged else (held(tmp_path) == 0.0)


async def test_an_endpoint_that_is_away_costs_nothing(general: Space, worker: Worker, tmp_path: Path) -> None:
    provider = provider_of(budgeted("http://127.0.0.1:1/v1", tmp_path, 1.0, max_retries=0), general, worker)
    [answer] = await provider.find(["warm"])
    await provider.close()
    assert isinstance(answer, Unavailable)
    assert held(tmp_path) == 0.0


async def test_over_budget_the_stream_waits_and_what_was_paid_for_is_not_asked_again(
    general: Space, worker: Worker, tmp_path: Path, extraction_by: Callable[..., Extraction]
) -> None:
    over = count(metrics.FAILURES, "over_budget")
    async with endpoint([(200, costing(600, 700))]) as running:
        provider = provider_of(budgeted(running.base_url, tmp_path, 0.0025, concurrency=1), general, worker)
        extraction = extraction_by(provider)
        texts = [f"warm {n}" for n in range(8)]
        for _ in range(2):
            with pytest.raises(OverBudget):
                await extraction.pairs(texts)
        paid = len(running.requests)
        assert 0 < paid < 8
        assert len(await extraction.pairs(texts[:paid])) == paid
        assert len(running.requests) == paid
        await provider.close()
    assert count(metrics.FAILURES, "over_budget") > over


async def test_over_budget_the_offline_provider_finds_and_signs_what_it_found(
    general: Space, worker: Worker, tmp_path: Path, extraction_by: Callable[..., Extraction]
) -> None:
    async with endpoint([(200, costing(600, 700))]) as running:
        given = budgeted(running.base_url, tmp_path, 0.0012, concurrency=1, over_budget="rules")
        provider = provider_of(given, general, worker)
        extracted = await extraction_by(provider).pairs(
            ["The sound is warm.", "The screen is gorgeous.", "Der Klang ist warm und der Preis ist fair."]
        )
        await provider.close()
    rules = "rules/en_core_web_sm+vader"
    assert [one.extractor for one in extracted] == ["openai/gpt-4o-mini+prompt-2", rules, rules]
    assert [pair.quote for pair in extracted[1].pairs] == ["screen is gorgeous"]
    assert extracted[2].failure == "unsupported_language"


async def test_only_what_is_over_budget_goes_to_the_other() -> None:
    paid: Provider = Saying({"good": [], "away": Unavailable("away"), "dear": OverBudget("spent")}, name="paid")
    free = Saying({}, name="free")
    answers = await OfflineOverBudget(paid, free).find(["dear", "good", "away"])
    assert [answers[0], answers[1]] == [Found([], "free"), Found([], "paid")]
    assert isinstance(answers[2], Unavailable)
    assert free.asked == ["dear"]


async def test_embeddings_are_paid_from_the_same_budget(worker: Worker, tmp_path: Path) -> None:
    space = Space("tiny", "text-embedding-3-small", 2, 2, (Attribute("other", ()),))
    given = budgeted("http://127.0.0.1:1/v1", tmp_path, 0.000001).model_copy(update={"embeddings": "openai"})
    embeddings = embeddings_of(given, space, worker)
    with pytest.raises(OverBudget):
        await embeddings.embed(["text " * 100], 100)
    await embeddings.close()
