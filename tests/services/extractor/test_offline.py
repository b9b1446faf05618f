"""services/extractor/offline.py and rules.py: what the rules find in sentences, and that any text is survived."""

import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.extractor import metrics
from services.extractor.extraction import Extraction
from services.extractor.findings import Finding, Found, NothingUsable
from services.extractor.languages import Languages
from services.extractor.offline import OfflineProvider, Rules
from services.extractor.sentences import MAX_SENTENCE_CHARS, sentences_of
from services.extractor.worker import Worker
from shared.events import MAX_QUOTE_CHARS
from tests.services.extractor.doubles import count


def found(rules: Rules, text: str) -> set[tuple[str, str, int]]:
    return {(finding.aspect, finding.opinion, finding.polarity) for finding in rules.find([text])[0]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "The battery dies fast but the screen is gorgeous.",
            {("battery", "dies fast", -1), ("screen", "gorgeous", 1)},
        ),
        ("Great sound and a fair price.", {("sound", "great", 1), ("price", "fair", 1)}),
        ("I love the tone of this guitar.", {("tone", "love", 1)}),
        ("The neck feels comfortable and smooth.", {("neck", "comfortable", 1), ("neck", "smooth", 1)}),
        ("It sounds amazing.", {("sounds", "amazing", 1)}),
        ("Very easy to use.", {("", "easy to use", 1)}),
        ("The screen was too small.", {("screen", "too small", -1)}),
        ("It stopped working after a week.", {("", "stopped working", -1)}),
        ("Low price.", {("price", "low", 1)}),
        ("This is a piece of junk.", {("", "junk", -1)}),
        ("It arrived on Monday and I own two.", set()),
        ("It would be nice if it came with a case.", set()),
    ],
)
def test_opinions_are_found_with_their_aspect_and_polarity(
    rules: Rules, text: str, expected: set[tuple[str, str, int]]
) -> None:
    assert found(rules, text) == expected


@pytest.mark.parametrize(
    ("plain", "negated"),
    [
        ("The sound is good.", "The sound is not good."),
        ("The sound is good.", "The sound isn't good."),
        ("It works.", "It doesn't work."),
        ("It works.", "It never worked."),
        ("I think it sounds good.", "I don't think it sounds good."),
        ("I recommend this strap.", "I can't recommend this strap."),
        ("The strap broke.", "The strap never broke."),
        ("I have problems with the strap.", "I have no problems with the strap."),
        ("I was disappointed.", "I was not disappointed."),
    ],
)
def test_negation_turns_polarity_around_and_is_quoted(rules: Rules, plain: str, negated: str) -> None:
    [before], [after] = rules.find([plain, negated])
    assert before.polarity == -after.polarity != 0
    assert after.opinion.startswith("not ")
    assert any(word in after.quote for word in ("n't", "not", "never", "no "))


def test_not_only_is_no_negation(rules: Rules) -> None:
    assert ("", "good", 1) in found(rules, "It is not only good but cheap.")


def test_findings_do_not_depend_on_the_texts_beside_them(rules: Rules) -> None:
    texts = ["The sound is great.", "", "Poor build, but a nice finish!\nThe seller was rude."]
    assert rules.find(texts) == [rules.find([text])[0] for text in texts]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["good", "not", "the", "sound", "is", "bad", ".", "\n", "don't", "💥", "very", "and", "\ud800"])
        | st.text(max_size=12),
        max_size=60,
    )
)
def test_every_quote_of_any_text_is_in_it_where_it_says(rules: Rules, parts: list[str]) -> None:
    text = " ".join(parts)
    for finding in rules.find([text])[0]:
        assert text.startswith(finding.quote, finding.near)
        assert len(finding.quote) > 0


class Reading:
    """A finder that remembers what it was given, and finds each text to be good."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        self.read.extend(texts)
        return [[Finding(text, "good", 1, text)] for text in texts]


GERMAN, CHINESE = "Der Klang ist warm und der Preis ist fair.", "背带用了一周就断了,材料感觉很便宜。"


async def test_what_is_surely_not_english_is_not_read_and_the_others_keep_their_places(worker: Worker) -> None:
    texts = [GERMAN, "The sound is warm.", CHINESE, "Nice strap."]
    reading, before = Reading(), count(metrics.FOREIGN, "de")
    answers = await OfflineProvider("reading/test", reading, worker, Languages()).find(texts)
    assert reading.read == [texts[1], texts[3]]
    assert [isinstance(answer, Found) for answer in answers] == [False, True, False, True]
    assert [f.aspect for answer in answers if isinstance(answer, Found) for f in answer.findings] == reading.read
    assert [(a.reason, a.by) for a in answers if isinstance(a, NothingUsable)] == [
        ("unsupported_language", "reading/test")
    ] * 2
    assert count(metrics.FOREIGN, "de") == before + 1
    assert len(await OfflineProvider("reading/test", reading, worker).find([GERMAN])) == 1
    assert reading.read[-1] == GERMAN, "where nobody tells languages everything is read"


async def test_a_batch_without_an_english_review_is_answered_too(rules: Rules, worker: Worker) -> None:
    answers = await OfflineProvider("rules/test", rules, worker, Languages()).find([GERMAN, CHINESE])
    assert [isinstance(answer, NothingUsable) for answer in answers] == [True, True]


async def test_every_pair_of_a_published_text_is_proven(offline: Extraction) -> None:
    texts = [
        "The battery dies fast but the screen is gorgeous.",
        "Good GOOD good, bad; the sound is great, the price is great, the look is great, the feel is great, "
        "the box is great, the case is awful and the strap broke. " * 30,
        "great " * 5000,
        "x" * 20_000 + " the sound is great",
    ]
    for text, extracted in zip(texts, await offline.pairs(texts), strict=True):
        assert len(extracted.pairs) <= 4
        for pair in extracted.pairs:
            assert text[pair.start : pair.end] == pair.quote
            assert 0 < len(pair.quote) <= MAX_QUOTE_CHARS
            assert len(pair.vector) == 8


def test_a_text_is_searched_up_to_its_bound_and_in_its_most_telling_sentences() -> None:
    short = Rules(max_chars=60, max_sentences=1)
    [findings] = short.find(["The sound is fine. The neck is absolutely gorgeous. " + "It is nice. " * 10])
    assert [(finding.aspect, finding.opinion) for finding in findings] == [("neck", "gorgeous")]


def test_a_text_without_end_is_searched_in_bounded_time(rules: Rules) -> None:
    started = time.perf_counter()
    rules.find(["good and " * 4000, "(" * 30_000, "not " * 8000, "\n" * 30_000])
    assert time.perf_counter() - started < 20.0


@given(st.text(max_size=2000))
def test_sentences_are_spans_in_order_that_lose_no_word(text: str) -> None:
    spans = list(sentences_of(text))
    assert all(0 < end - start <= MAX_SENTENCE_CHARS for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    kept = "".join("".join(text[start:end].split()) for start, end in spans)
    assert kept == "".join(text.split())
