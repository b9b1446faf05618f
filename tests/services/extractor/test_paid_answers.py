"""services/extractor/paid_answers.py, paid_once.py: what was paid for is never paid for twice, and does not stay for ever."""

import asyncio
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.extractor import metrics
from services.extractor.findings import Answered, Finding, Found, NothingUsable
from services.extractor.paid_answers import DAY_SECONDS, FILE, Kept, PaidAnswers
from services.extractor.paid_once import PaidOnce
from services.extractor.providers import provider_of
from services.extractor.settings import ExtractorSettings
from services.extractor.worker import Worker
from shared.errors import Unavailable
from shared.service import WrongSetting
from shared.space import Space
from tests.services.extractor.doubles import Saying, answering, count, endpoint, settings_for

FINDING = Finding("sound", "warm", 1, "warm 👍", near=3, strength=0.5)
TEXTS = st.sampled_from("abcdefgh")
STEPS = st.one_of(
    st.tuples(st.just("put"), TEXTS),
    st.tuples(st.just("wait"), st.integers(1, 20)),
    st.tuples(st.sampled_from(["sweep", "restart"]), st.none()),
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 1.0  # no two answers are of one moment
        return self.now


def kept(number: int) -> Kept:
    return Kept([Finding("sound", f"warm {number}", 1, "warm")])


@settings(deadline=None, max_examples=40)
@given(st.lists(STEPS, max_size=40), st.integers(1, 5))
def test_it_is_a_dict_of_the_newest_that_forgets_with_age(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[str, str | int | None]], most: int
) -> None:
    async def run() -> None:
        folder, clock = tmp_path_factory.mktemp("answers"), Clock()
        model: OrderedDict[str, tuple[Kept, float]] = OrderedDict()
        answers = PaidAnswers(folder, most, 10.0, clock)
        for number, (step, what) in enumerate(steps):
            if step == "put":
                await answers.put("p", str(what), kept(number))
                model.pop(str(what), None)
                model[str(what)] = kept(number), clock.now
                while len(model) > most:
                    model.popitem(last=False)
            elif step == "wait":
                clock.now += int(what or 0) * DAY_SECONDS / 4
            elif step == "sweep":
                await answers.sweep()
            else:
                await answers.close()
                answers = PaidAnswers(folder, most, 10.0, clock)
            found = await answers.get("p", "abcdefgh")
            model = OrderedDict((text, one) for text, one in model.items() if one[1] > clock.now + 1 - 10 * DAY_SECONDS)
            assert found == {text: one for text, (one, _) in model.items()}
        await answers.close()

    asyncio.run(run())


async def test_what_is_too_old_is_gone_from_the_disk(tmp_path: Path) -> None:
    clock = Clock()
    answers = PaidAnswers(tmp_path, 10, 30.0, clock)
    await answers.put("p", "a", Kept([Finding("sound", "warm", 1, "a very private sentence")]))
    clock.now += 31 * DAY_SECONDS
    await answers.sweep()
    assert b"private sentence" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    await answers.close()


async def test_answers_of_another_setup_are_not_ours(tmp_path: Path) -> None:
    one, other = Saying({"text": [FINDING]}), Saying({"text": []})
    first = PaidOnce(one, "prompt 1", PaidAnswers(tmp_path, 10, 30.0))
    assert await first.find(["text"]) == [Found([FINDING], one.name)]
    await first.close()
    second = PaidOnce(other, "prompt 2", PaidAnswers(tmp_path, 10, 30.0))
    assert await second.find(["text"]) == [Found([], other.name)]
    await second.close()


async def test_only_what_was_paid_for_and_is_final_is_kept(tmp_path: Path) -> None:
    provider = Saying({
        "good": [FINDING], "none": [], "refused": NothingUsable("refusal"), "rejected": NothingUsable("rejected"),
        "away": Unavailable("away"),
    })  # fmt: skip
    texts = [*provider.answers]
    for _ in range(2):
        once = PaidOnce(provider, "", PaidAnswers(tmp_path, 10, 30.0))
        answers = await once.find(texts)
        await once.close()
        assert answers[:2] == [Found([FINDING], provider.name), Found([], provider.name)]
        assert [getattr(answer, "reason", None) for answer in answers[2:4]] == ["refusal", "rejected"]
        assert isinstance(answers[4], Unavailable)
    assert provider.asked == [*texts, "rejected", "away"]


@dataclass
class Slow(Saying):
    """Answers when it is told to."""

    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def find(self, texts: Sequence[str]) -> list[Answered]:
        self.asked.extend(texts)
        await self.go.wait()
        return [Found([FINDING], self.name) for _ in texts]


async def test_who_asks_meanwhile_waits_for_the_same_answer_and_it_is_kept_though_nobody_waits(tmp_path: Path) -> None:
    provider = Slow({})
    once = PaidOnce(provider, "", PaidAnswers(tmp_path, 10, 30.0))
    tasks = [asyncio.create_task(once.find(["text"])) for _ in range(3)]
    async with asyncio.timeout(10):
        while not provider.asked:
            await asyncio.sleep(0.01)
    tasks[0].cancel()
    provider.go.set()
    assert await tasks[1] == await tasks[2] == await once.find(["text"])
    assert provider.asked == ["text"]
    await once.close()


@pytest.mark.parametrize("damage", [b"no database at all" * 99, b"SQLite format 3\x00" + os.urandom(8192)])
async def test_a_damaged_database_is_set_aside_counted_and_the_work_goes_on(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(damage)
    before = count(metrics.PAID_ANSWERS_TROUBLE, "damaged")
    answers = PaidAnswers(tmp_path, 10, 30.0)
    await answers.put("p", "a", kept(1))
    assert await answers.get("p", ["a"]) == {"a": kept(1)}
    await answers.close()
    assert (tmp_path / f"{FILE}.damaged").read_bytes() == damage
    assert count(metrics.PAID_ANSWERS_TROUBLE, "damaged") == before + 1


async def test_a_damaged_answer_is_bought_again(tmp_path: Path) -> None:
    answers = PaidAnswers(tmp_path, 10, 30.0)
    await answers.put("p", "a", kept(1))
    await answers.close()
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("UPDATE answers SET answer = x'ff'")
    database.close()
    answers = PaidAnswers(tmp_path, 10, 30.0)
    assert await answers.get("p", ["a"]) == {}
    await answers.put("p", "a", kept(2))
    assert await answers.get("p", ["a"]) == {"a": kept(2)}
    await answers.close()


async def test_a_database_that_cannot_be_written_costs_money_and_no_review(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    before = count(metrics.PAID_ANSWERS_TROUBLE, "failed")
    provider = Saying({"text": [FINDING]})
    once = PaidOnce(provider, "", PaidAnswers(tmp_path, 10, 30.0))
    assert await once.find(["text"]) == [Found([FINDING], provider.name)]
    await once.close()
    assert count(metrics.PAID_ANSWERS_TROUBLE, "failed") > before


async def test_an_identical_text_is_not_paid_for_again_after_a_restart(
    general: Space, worker: Worker, tmp_path: Path
) -> None:
    hits = count(metrics.CACHE, "paid", "hit")
    pair = ("sound", "warm", "positive", "warm")
    async with endpoint([(200, answering(pair))]) as running:
        given = settings_for(running.base_url, kept_answers=10).model_copy(update={"state": tmp_path})
        for _ in range(2):
            provider = provider_of(given, general, worker)
            [found] = await provider.find(["The sound is warm."])
            await provider.close()
            assert isinstance(found, Found)
            assert [finding.quote for finding in found.findings] == ["warm"]
        assert len(running.requests) == 1
    assert count(metrics.CACHE, "paid", "hit") == hits + 1


def test_a_folder_that_cannot_be_is_a_wrong_setting(general: Space, worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    given: ExtractorSettings = settings_for("http://127.0.0.1:1/v1", kept_answers=10)
    with pytest.raises(WrongSetting, match="FINESTREAM_EXTRACTOR_STATE"):
        provider_of(given.model_copy(update={"state": tmp_path / "file"}), general, worker)
