"""services/extractor/prepay.py and what it is made of (prepayment, parts, keeping, underway, batch_lines, openai_batches).

Bought by batches, once, and found afterwards, whatever is killed in between.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import count as counting
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from services.extractor import calls, metrics, parts, prepayment
from services.extractor.budget import FILE as SPENT
from services.extractor.budget import OverBudget, Taken
from services.extractor.estimate import estimate
from services.extractor.findings import Answered, Found, NothingUsable
from services.extractor.keeping import Summary
from services.extractor.openai_batches import BatchRefused
from services.extractor.paid_answers import FILE as ANSWERS
from services.extractor.paid_answers import PaidAnswers
from services.extractor.prepay import main, not_paid, prepay, show
from services.extractor.providers import provider_of
from services.extractor.settings import ExtractorSettings
from services.extractor.underway import FILE, Underway, Unkept
from services.extractor.worker import Worker
from shared import jobs
from shared.errors import Unavailable
from shared.service import WrongSetting
from shared.space import Space
from tests.services.extractor.batch_endpoint import BatchEndpoint, Fate, batch_endpoint, shown_in
from tests.services.extractor.doubles import answering, completion, count, endpoint, settings_for

PRIVATE = "Write to jo@example.com: useless support."
TEXTS = ["The sound is warm.", PRIVATE, "Nice strap. 👍", "One\u2028line.", "Dull.", "Half a pair \ud83d here."]
USD = 11 * 0.15e-6 + 7 * 0.6e-6  # of one answer of the double, by the table


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepayment, "POLLS", (0.0,))
    monkeypatch.setattr(jobs, "PAUSES", (0.0,) * 4)
    monkeypatch.setattr(calls, "FIRST_DELAY_SECONDS", 0.001)


def chosen_for(running: BatchEndpoint, folder: Path, **openai: Any) -> ExtractorSettings:
    return settings_for(running.base_url, **{"kept_answers": 1000, **openai}).model_copy(update={"state": folder})


async def prepaid(running: BatchEndpoint, folder: Path, texts: Sequence[str], **openai: Any) -> Summary:
    summaries: list[Summary] = []
    try:
        await prepay(lambda: iter(texts), chosen_for(running, folder, **openai), summaries.append)
    finally:
        assert len(summaries) == 1, "what is cut short says what was paid, too"
    return summaries[0]


async def found(
    running: BatchEndpoint, folder: Path, texts: Sequence[str], space: Space, worker: Worker
) -> list[Answered]:
    """By the provider of the stream, of `extract` and of the backfill."""
    provider = provider_of(chosen_for(running, folder), space, worker)
    try:
        return await provider.find(texts)
    finally:
        await provider.close()


def warm(shown: str) -> tuple[int, Any]:
    return 200, answering(("sound", "warm", "positive", shown))


def dear(_: str) -> tuple[int, Any]:
    return 200, {**answering(), "usage": {"prompt_tokens": 600, "completion_tokens": 700}}


def held(folder: Path) -> float:
    return msgspec.json.decode((folder / SPENT).read_bytes(), type=Taken).usd


def leftovers(folder: Path) -> bytes:
    """All bytes on disk but the answers."""
    return b"".join(file.read_bytes() for file in folder.iterdir() if not file.name.startswith(ANSWERS))


async def test_what_is_prepaid_is_found_without_a_live_call_and_costs_half(
    general: Space, worker: Worker, tmp_path: Path
) -> None:
    before = count(metrics.COST, "gpt-4o-mini")
    async with batch_endpoint(BatchEndpoint(answer=warm)) as running:
        summary = await prepaid(running, tmp_path, [*TEXTS, TEXTS[0]])
        assert count(metrics.COST, "gpt-4o-mini") - before == pytest.approx(len(TEXTS) * USD / 2)
        answers = await found(running, tmp_path, TEXTS, general, worker)
        assert running.live == []
        again = await prepaid(running, tmp_path, TEXTS)
        assert len(running.batches) == 1
    assert (summary.texts, summary.known, summary.kept, summary.left) == (len(TEXTS), 0, len(TEXTS), Counter())
    assert (again.known, again.kept) == (len(TEXTS), 0)
    quotes = [answer.findings[0].quote for answer in answers if isinstance(answer, Found)]
    assert quotes == TEXTS[:-1], "hidden or not; half a pair is no JSON"


async def test_a_batch_asks_what_a_live_call_asks(general: Space, worker: Worker, tmp_path: Path) -> None:
    async with batch_endpoint(BatchEndpoint()) as running:
        await prepaid(running, tmp_path / "batch", TEXTS)
        await found(running, tmp_path / "live", TEXTS, general, worker)
        lines = [json.loads(line) for line in running.uploads[0].split(b"\n") if line]
    assert sorted(map(shown_in, running.live)) == sorted(shown_in(line["body"]) for line in lines)
    assert all(line["body"] in running.live for line in lines)
    assert {line["url"] for line in lines} == {"/v1/chat/completions"}
    assert [line["custom_id"] for line in lines] == [str(n) for n in range(len(TEXTS))], (
        "no word, id or hash of a review"
    )


async def test_nothing_of_a_review_is_left_at_the_endpoint_in_the_log_or_on_disk(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logged:
        async with batch_endpoint(BatchEndpoint(answer=warm)) as running:
            await prepaid(running, tmp_path, TEXTS, batch_requests=2)
            assert running.files == {}
    assert "sound" not in str(logged)
    assert b"jo@example.com" not in b"".join(running.uploads)
    for told in (b"jo@example.com", b"sound is warm", "█".encode()):
        assert told not in leftovers(tmp_path)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ((200, completion(None, refusal="I cannot help with that.")), "refusal"),
        ((200, completion("", finish="content_filter")), "content_filter"),
        ((400, {"error": {"message": "filtered", "code": "content_filter"}}), "content_filter"),
        ((200, completion('{"pairs": [{"attribute": "pri', finish="length")), "truncated"),
        ((200, completion("Sure! Here are the pairs: none.")), "invalid_json"),
        ((200, completion('{"opinions": []}')), "wrong_schema"),
        ((200, completion("")), "empty_answer"),
        ((200, {"choices": 5}), "empty_answer"),
        ((200, {}), "empty_answer"),
        ((200, "oops"), "empty_answer"),
    ],
)
async def test_an_answer_without_opinions_ends_as_a_live_one(
    answer: tuple[int, Any], failure: str, general: Space, worker: Worker, tmp_path: Path
) -> None:
    async with batch_endpoint(BatchEndpoint(answer=lambda _: answer)) as running:
        summary = await prepaid(running, tmp_path, ["text"])
        [answered] = await found(running, tmp_path, ["text"], general, worker)
        assert running.live == []
    assert isinstance(answered, NothingUsable)
    assert answered.reason == failure
    assert summary.unusable == {failure: 1}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((500, {"error": {"message": "no", "code": "server_error"}}), "server_error"), ((429, {}), "status_429"),
        ((400, {"error": {"message": "no", "code": None}}), "status_400"), ((400, None), "status_400"),
        ((400, {"error": {"code": "a sentence, which may quote the review"}}), "no_answer"),
    ],
)  # fmt: skip
async def test_an_answer_that_failed_is_not_kept_and_is_asked_for_again(
    answer: tuple[int, Any], code: str, tmp_path: Path
) -> None:
    async with batch_endpoint(BatchEndpoint(answer=lambda shown: answer if shown == "bad" else warm(shown))) as running:
        summary = await prepaid(running, tmp_path, ["bad", "good"])
        assert (summary.kept, summary.left) == (1, {code: 1})
        running.answer = warm
        again = await prepaid(running, tmp_path, ["bad", "good"])
        assert (again.known, again.kept) == (1, 1)
    assert sorted(running.completed) == ["bad", "good"]


async def test_the_summary_is_a_sentence_or_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    running = BatchEndpoint(answer=lambda shown: (500, {}) if shown == "bad" else (200, completion("")))
    async with batch_endpoint(running):
        summary = await prepaid(running, tmp_path, ["bad", "good"])
    capsys.readouterr()
    show(summary, as_json=False)
    show(summary, as_json=True)
    sentence, line = capsys.readouterr().out.splitlines()
    assert sentence.startswith(
        "2 different texts, 0 paid for before or underway; 1 answers kept, of them unusable: 1 empty_answer;"
        " left: 1 status_500; tokens: "
    )
    told = json.loads(line)["summary"]
    assert (told["texts"], told["kept"], told["left"]) == (2, 1, {"status_500": 1})
    assert told["usd"] > 0


@pytest.mark.parametrize("fate", ["expired", "cancelled"])
async def test_what_a_batch_answered_before_it_ended_is_kept_and_the_rest_left_to_the_next_run(
    fate: Fate, tmp_path: Path
) -> None:
    async with batch_endpoint(BatchEndpoint(fate=lambda number: "completed" if number else fate)) as running:
        summary = await prepaid(running, tmp_path, TEXTS)
        assert (summary.kept, summary.left) == (3, {f"batch_{fate}": 3})
        again = await prepaid(running, tmp_path, TEXTS)
    assert (again.known, again.kept) == (3, 3)
    assert len(running.completed) == len(set(running.completed)) == len(TEXTS)


async def test_lines_that_are_none_of_ours_or_come_twice_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, general: Space, worker: Worker, tmp_path: Path
) -> None:
    running = BatchEndpoint(answer=warm)
    content = running.content

    async def noisy(request: Any) -> Any:
        file = running.files[request.match_info["id"]]
        noise = b'\n{\n[]\n{"custom_id": "x"}\n{"custom_id": "99"}\n{"custom_id": -1}\n\xff\n'
        running.files[request.match_info["id"]] = (file[0], noise + file[1] + file[1])
        return await content(request)

    monkeypatch.setattr(running, "content", noisy)
    async with batch_endpoint(running):
        summary = await prepaid(running, tmp_path, TEXTS)
        await found(running, tmp_path, TEXTS, general, worker)
        assert running.live == []
    assert (summary.kept, summary.left) == (len(TEXTS), Counter())


async def test_a_batch_that_fails_as_a_whole_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    async with batch_endpoint(BatchEndpoint(fate=lambda _: "failed")) as running:
        with pytest.raises(BatchRefused, match=r"refuses a batch: invalid_json_line$"):
            await prepaid(running, tmp_path, TEXTS)
        assert running.files == {}
        assert b"sound is warm" not in leftovers(tmp_path)
        running.fate = lambda _: "completed"
        assert (await prepaid(running, tmp_path, TEXTS)).kept == len(TEXTS)


@pytest.mark.parametrize(("most_waiting", "requests"), [(3, 50_000), (5, 3), (1, 2)])
async def test_what_is_too_much_for_the_account_waits_or_is_halved(
    most_waiting: int, requests: int, tmp_path: Path
) -> None:
    texts = [f"text {n}" for n in range(17)]
    async with batch_endpoint(BatchEndpoint(most_waiting=most_waiting)) as running:
        assert (await prepaid(running, tmp_path, texts, batch_requests=requests)).kept == 17
        assert running.files == {}
    assert sorted(running.completed) == sorted(texts)


async def test_an_account_without_room_for_one_text_is_one_line(tmp_path: Path) -> None:
    async with batch_endpoint(BatchEndpoint(most_waiting=0)) as running:
        with pytest.raises(BatchRefused, match="token_limit_exceeded"):
            await prepaid(running, tmp_path, TEXTS)


async def test_files_and_batches_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(30)]
    async with batch_endpoint(BatchEndpoint(polls=3)) as running:
        await prepaid(running, tmp_path / "requests", texts, batch_requests=4)
        sizes = [upload.count(b"\n") for upload in running.uploads]
        assert (max(sizes), sum(sizes)) == (4, 30)
        assert running.most_open == prepayment.AT_ONCE
        most = 3 * max(map(len, running.uploads[0].split(b"\n"))) + 10
        running.uploads.clear()
        monkeypatch.setattr(parts, "MOST_BYTES", most)
        await prepaid(running, tmp_path / "bytes", texts)
        assert max(map(len, running.uploads)) <= most
        assert len(running.uploads) == 10
        assert sum(upload.count(b"\n") for upload in running.uploads) == 30


@pytest.mark.parametrize("call", ["upload", "list_files", "create", "get", "list_batches", "content", "delete"])
@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("is_done", [False, True])
async def test_a_call_that_fails_is_made_again_and_no_text_is_paid_for_twice(
    call: str, status: int, is_done: bool, tmp_path: Path
) -> None:
    running = BatchEndpoint()
    running.faults[call] = [(status, is_done)] * 2
    if call == "list_batches":
        running.faults["create"] = [(500, True)]
    async with batch_endpoint(running):
        assert (await prepaid(running, tmp_path, TEXTS, batch_requests=4)).kept == len(TEXTS)
        assert running.faults[call] == []
        assert running.files == {}
    assert len(running.completed) == len(set(running.completed)) == len(TEXTS)


@pytest.mark.parametrize("then", [[], [(504, True)], [(504, "late"), (500, True)]])
async def test_a_batch_that_would_be_created_late_finds_no_file(then: list[Any], tmp_path: Path) -> None:
    running = BatchEndpoint()
    running.faults["create"] = [(504, "late"), *then]
    async with batch_endpoint(running):
        assert (await prepaid(running, tmp_path, TEXTS)).kept == len(TEXTS)
        assert running.files == {}
        assert running.faults["create"] == []
    assert len(running.completed) == len(set(running.completed)) == len(TEXTS)


async def test_an_endpoint_that_stays_away_ends_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    running = BatchEndpoint()
    running.faults["get"] = [(500, False)] * 100
    async with batch_endpoint(running):
        with pytest.raises(Unavailable, match="server_error"):
            await prepaid(running, tmp_path, TEXTS)
        running.faults["get"] = []
        summary = await prepaid(running, tmp_path, ["Another."])
        assert running.files == {}
    assert (summary.texts, summary.kept) == (1, len(TEXTS) + 1), "whatever file it is given"
    assert len(running.completed) == len(TEXTS) + 1


async def test_what_was_asked_with_other_settings_is_kept_as_their_answer(
    general: Space, worker: Worker, tmp_path: Path
) -> None:
    running = BatchEndpoint()
    running.faults["get"] = [(500, False)] * 100
    async with batch_endpoint(running):
        with pytest.raises(Unavailable):
            await prepaid(running, tmp_path, TEXTS)
        running.faults["get"] = []
        summary = await prepaid(running, tmp_path, TEXTS, max_output_tokens=99)
        assert (summary.known, summary.kept) == (0, 2 * len(TEXTS))
        await found(running, tmp_path, TEXTS, general, worker)
        assert running.live == []


@pytest.mark.parametrize(
    "nonsense",
    [{}, [], "x", 7, {"id": 7}, {"id": "batch-0", "metadata": "x", "errors": 5, "request_counts": {"completed": "x"}}],
)
async def test_nonsense_about_a_batch_is_asked_about_again(
    nonsense: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    running = BatchEndpoint()
    get, answers = running.get, iter([nonsense])

    async def said(request: Any) -> Any:
        return web.json_response(one) if (one := next(answers, None)) is not None else await get(request)

    monkeypatch.setattr(running, "get", said)
    async with batch_endpoint(running):
        assert (await prepaid(running, tmp_path, TEXTS)).kept == len(TEXTS)
        assert len(running.batches) == 1


class Killed(BaseException):
    """Where a process would be no more."""


def kill_at(patch: pytest.MonkeyPatch, at: int, is_done: bool) -> None:
    """At the call of that number, before it or after it."""
    numbers, request, put = counting(), AsyncOpenAI.request, PaidAnswers.put

    async def called(work: Any, *args: Any, **options: Any) -> Any:
        is_last = next(numbers) == at
        if is_last and not is_done:
            raise Killed
        result = await work(*args, **options)
        if is_last:
            raise Killed
        return result

    async def requested(self: Any, *args: Any, **options: Any) -> Any:
        return await called(request, self, *args, **options)

    async def stored(self: Any, *args: Any) -> Any:
        return await called(put, self, *args)

    patch.setattr(AsyncOpenAI, "request", requested)
    patch.setattr(PaidAnswers, "put", stored)


async def killed_and_finished(
    folder: Path, texts: Sequence[str], kills: Sequence[tuple[int, bool]], fates: Sequence[Fate] = (), **openai: Any
) -> BatchEndpoint:
    """Runs that are killed, and then as many as it takes, a day each."""
    async with batch_endpoint(BatchEndpoint(fate=lambda at: fates[at] if at < len(fates) else "completed")) as running:
        for at, is_done in kills:
            with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed, OverBudget):
                kill_at(patch, at, is_done)
                await prepaid(running, folder, texts, **openai)
        for _ in range(9):
            (folder / SPENT).unlink(missing_ok=True)
            with contextlib.suppress(OverBudget):
                await prepaid(running, folder, texts, **openai)
            assert not openai.get("daily_budget_usd") or 0 <= held(folder) <= openai["daily_budget_usd"] + 1e-9
            if not await not_paid(lambda: iter(texts), chosen_for(running, folder)):
                return running
    raise AssertionError(f"not all is paid for: {running.done}")


def is_paid_once(running: BatchEndpoint, folder: Path, texts: Sequence[str]) -> bool:
    assert len(running.completed) == len(set(running.completed)) == len(texts), running.done
    assert not running.files, "nothing is left at the endpoint"
    return b"sound is warm" not in leftovers(folder)


@pytest.mark.parametrize("is_done", [False, True])
async def test_wherever_it_is_killed_nothing_is_paid_for_twice_and_nothing_is_left(
    is_done: bool, tmp_path: Path
) -> None:
    whole = await killed_and_finished(tmp_path / "whole", TEXTS[:2], [])
    for at in range(len(whole.calls) + len(TEXTS[:2])):
        folder = tmp_path / str(at)
        running = await killed_and_finished(folder, TEXTS[:2], [(at, is_done)])
        assert is_paid_once(running, folder, TEXTS[:2]), at


@settings(deadline=None, max_examples=12)  # it writes files, and waits for them to be on disk
@given(
    st.lists(st.tuples(st.integers(0, 25), st.booleans()), max_size=3),
    st.lists(st.sampled_from(["completed", "expired", "cancelled"]), max_size=4),
    st.integers(2, 6),
    st.sampled_from([0.0, 0.003]),
)
def test_whatever_is_killed_or_ends_early_in_the_end_each_text_is_kept_and_paid_for_once(
    tmp_path_factory: pytest.TempPathFactory,
    kills: list[tuple[int, bool]],
    fates: list[Fate],
    requests: int,
    budget: float,
) -> None:
    folder = tmp_path_factory.mktemp("prepaid")
    running = asyncio.run(
        killed_and_finished(folder, TEXTS, kills, fates, batch_requests=requests, daily_budget_usd=budget)
    )
    assert is_paid_once(running, folder, TEXTS)


@pytest.mark.parametrize("call", ["upload", "create", "get", "content", "delete"])
async def test_a_process_that_is_killed_while_the_endpoint_works_pays_for_nothing_twice(
    call: str, tmp_path: Path
) -> None:
    """The answer to the call is lost with the process."""
    (tmp_path / "texts").write_text("\n".join(TEXTS[:3]))
    running = BatchEndpoint(polls=0)
    process: asyncio.subprocess.Process | None = None

    async def killing(request: Any) -> Any:
        answer = await handler(request)
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        return answer

    handler = getattr(running, call)
    setattr(running, call, killing)
    async with batch_endpoint(running):
        state = tmp_path / "state"
        environment = {
            **os.environ, "FINESTREAM_EXTRACTOR_PROVIDER": "openai", "FINESTREAM_OPENAI_BASE_URL": running.base_url,
            "FINESTREAM_EXTRACTOR_STATE": str(state), "FINESTREAM_OPENAI_DAILY_BUDGET_USD": "1",
        }  # fmt: skip
        command = [sys.executable, "-m", "services.extractor.prepay", str(tmp_path / "texts")]
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        assert await process.wait() == -signal.SIGKILL
        process = None
        assert held(state) > 3 * USD / 2
        await prepaid(running, state, TEXTS[:3], daily_budget_usd=1.0)
        assert running.files == {}
    assert sorted(running.completed) == sorted([*TEXTS[:1], "Write to ██████████████: useless support.", TEXTS[2]])
    assert 3 * USD / 2 - 1e-9 <= held(state) <= 1 / 100 + 1e-9, (
        "but for the killed one's step, what was reserved is given back"
    )


async def test_a_days_budget_is_kept_and_what_it_does_not_pay_for_is_left_to_the_next(tmp_path: Path) -> None:
    texts, is_over = [f"text {n}" for n in range(40)], True
    async with batch_endpoint(BatchEndpoint(answer=dear)) as running:
        for _ in range(20):
            before = len(running.completed)
            try:
                await prepaid(running, tmp_path, texts, daily_budget_usd=0.005, batch_requests=25)
                is_over = False
            except OverBudget as error:
                assert "goes on at 00:00 UTC" in str(error)
                assert b"text 39" not in leftovers(tmp_path)
            assert held(tmp_path) <= 0.005
            assert held(tmp_path) == pytest.approx(
                (len(running.completed) - before) * (600 * 0.15e-6 + 700 * 0.6e-6) / 2
            )
            if not is_over:
                break
            assert held(tmp_path) > 0.004, "most of it is spent"
            (tmp_path / SPENT).unlink()
    assert not is_over
    assert len(running.completed) == len(set(running.completed)) == 40


async def test_an_answer_whose_usage_is_not_known_has_cost_the_most_that_it_can(tmp_path: Path) -> None:
    async with batch_endpoint(BatchEndpoint(answer=lambda _: (200, {**answering(), "usage": None}))) as running:
        await prepaid(running, tmp_path, ["text"], daily_budget_usd=1.0)
    assert held(tmp_path) > 700 * 0.6e-6 / 2


async def test_answers_that_cannot_be_kept_stay_at_the_endpoint_for_the_next_run(tmp_path: Path) -> None:
    async with batch_endpoint(BatchEndpoint()) as running:
        (tmp_path / ANSWERS).mkdir()
        with pytest.raises(Unkept, match="cannot be kept"):
            await prepaid(running, tmp_path, TEXTS)
        (tmp_path / ANSWERS).rmdir()
        assert (await prepaid(running, tmp_path, TEXTS)).kept == len(TEXTS)
        assert len(running.batches) == 1


async def test_two_runs_do_not_work_with_one_folder(tmp_path: Path) -> None:
    other = Underway(tmp_path)
    with pytest.raises(Unkept, match="another process"):
        Underway(tmp_path)
    other.close()
    Underway(tmp_path).close()


def test_a_damaged_file_is_one_line_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all" * 99)
    with pytest.raises(Unkept, match=r"batches\.sqlite") as caught:
        Underway(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / FILE).read_bytes() == b"no database at all" * 99


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kept_answers": 0}, "FINESTREAM_OPENAI_KEPT_ANSWERS=0"),
        ({"kept_answers": 5}, "the file has 6 different texts"),
        ({"daily_budget_usd": 1.0, "model": "of-our-own"}, "of-our-own has no price"),
    ],
)
async def test_what_would_be_paid_for_in_vain_is_a_wrong_setting(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    async with batch_endpoint(BatchEndpoint()) as running:
        with pytest.raises(WrongSetting, match=says):
            await prepay(lambda: iter(TEXTS), chosen_for(running, tmp_path, **changes), lambda _: None)
        with pytest.raises(WrongSetting, match="FINESTREAM_EXTRACTOR_PROVIDER=spans"):
            await prepay(lambda: iter(TEXTS), ExtractorSettings(state=tmp_path), lambda _: None)
        assert running.batches == {}


async def test_an_endpoint_without_batches_is_a_wrong_setting(tmp_path: Path) -> None:
    async with endpoint([(200, answering())]) as running:
        with pytest.raises(WrongSetting, match="/v1/files is not found: the endpoint has no Batch API"):
            await prepay(lambda: iter(TEXTS), chosen_for(running, tmp_path), lambda _: None)  # type: ignore[arg-type]


def test_a_dry_run_asks_nobody_costs_half_and_leaves_out_what_is_paid_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], general: Space, tmp_path: Path
) -> None:
    async def pay_for_one() -> None:
        async with batch_endpoint(BatchEndpoint()) as running:
            await prepaid(running, tmp_path, TEXTS[:1])

    asyncio.run(pay_for_one())
    capsys.readouterr()
    (tmp_path / "texts").write_text("\n".join([*TEXTS[:3], TEXTS[2]]))
    monkeypatch.setenv("FINESTREAM_EXTRACTOR_PROVIDER", "openai")
    monkeypatch.setenv("FINESTREAM_EXTRACTOR_STATE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["prepay", str(tmp_path / "texts"), "--dry-run", "--json"])
    main()
    told = json.loads(capsys.readouterr().out)
    live = estimate(TEXTS[1:3], ExtractorSettings().openai, general)
    assert told["texts"] == live.texts == 2
    assert told["most_usd"] == pytest.approx(live.most_usd / 2)
    assert told["expected_usd"] == pytest.approx(live.expected_usd / 2)
