"""services/extractor/quotes.py: a quote is a real span of the text or nothing."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.extractor.quotes import NEAR_CHARS, clean, locate, locate_near, shortened
from shared.events import MAX_PAIR_BYTES, MAX_QUOTE_CHARS, utf8_bytes

ANY = st.text(st.characters(exclude_categories=[]), max_size=300)  # surrogates and control characters too


@given(ANY, ANY, st.integers(-1, 400))
def test_any_span_lies_in_the_text(text: str, quote: str, near: int) -> None:
    span = locate(text, quote, near)
    if span is not None:
        start, end = span
        assert 0 <= start < end <= len(text)


@given(ANY, st.integers(0, 300), st.integers(1, 300), st.text(max_size=30))
def test_a_shortened_quote_fits_into_a_pair_and_loses_nothing_that_fits(
    text: str, start: int, length: int, phrase: str
) -> None:
    start, end = min(start, len(text)), min(start + length, len(text))
    cut = shortened(text, start, end, phrase)
    assert start <= cut <= end
    assert start < cut or start == end
    assert cut - start <= MAX_QUOTE_CHARS
    assert utf8_bytes(text[start:cut]) + utf8_bytes(phrase) <= MAX_PAIR_BYTES
    if end - start <= MAX_QUOTE_CHARS and utf8_bytes(text[start:end]) + utf8_bytes(phrase) <= MAX_PAIR_BYTES:
        assert cut == end


@given(ANY, st.data())
def test_what_is_in_the_text_is_found_as_it_is_written(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + MAX_QUOTE_CHARS)))
    quote = text[start:end]
    span = locate(text, quote)
    if quote.strip():
        assert span is not None
        assert text[span[0] : span[1]] == quote.strip()
    else:
        assert span is None


@pytest.mark.parametrize(
    ("text", "quote", "found"),
    [
        ("It dies fast.", "dies fast", "dies fast"),
        ("It  DIES\n fast.", "dies fast", "DIES\n fast"),
        ("It doesn’t work — at all", "doesn't work - at all", "doesn’t work — at all"),
        ("GROSSE Straße ist nett", "grosse strasse", "GROSSE Straße"),
        ("İstanbul strings are good", "strings are GOOD", "strings are good"),
        ("👍🏽 good sound", "Good  sound", "good sound"),
        ("It dies fast.", "lasts for ever", None),
        ("It dies fast.", "", None),
        ("It dies fast.", " \n", None),
        ("", "good", None),
    ],
)
def test_a_quote_is_mapped_back_to_what_was_written(text: str, quote: str, found: str | None) -> None:
    span = locate(text, quote)
    assert (text[slice(*span)] if span else None) == found


def test_of_two_occurrences_the_one_that_is_named_is_taken() -> None:
    text = "good sound, good price"
    assert locate(text, "good") == (0, 4)
    assert locate(text, "good", near=12) == (12, 16)
    assert locate(text, "good", near=13) == (0, 4)


@pytest.mark.parametrize(
    ("words", "quote", "place"),
    [
        ("fit", "The fit is snug", (4, 7)),
        ("snug", "The fit is snug", (11, 15)),
        (" fit ", "The fit is snug", (4, 7)),  # the words, not the spaces around them
        ("FIT", "no benefit", (27, 30)),  # a whole word, before the part of one that is in the quote
        ("bene", "no benefit", (39, 43)),  # the part of one where nothing else is there
        ("fit", "so the fit", (27, 30)),
        ("so", "no benefit", (20, 22)),  # beside the quote
        ("so  the", "no benefit", (20, 26)),
        ("sound", "no benefit", None),
        ("", "no benefit", None),
        (" \n", "no benefit", None),
        ("fit " * 40, "no benefit", None),
    ],
)
def test_words_are_found_in_their_quote_or_next_to_it(words: str, quote: str, place: tuple[int, int] | None) -> None:
    text = "The fit is snug..., so the fit has\tno  benefit"
    span = locate(text, quote)
    assert span is not None
    assert locate_near(text, words, span) == place


def test_words_far_from_their_quote_are_not_meant() -> None:
    text = f"The strap. {'x' * NEAR_CHARS} It broke."
    assert locate_near(text, "strap", (len(text) - 6, len(text))) is None
    assert locate_near(text, "strap", (20, 30)) == (4, 9)


@given(st.text(max_size=300), st.data())
def test_what_lies_where_words_were_found_is_those_words(text: str, data: st.DataObject) -> None:
    assume(len(text.casefold()) == len(text))  # a part of a letter that folds into two names the whole letter
    start = data.draw(st.integers(0, len(text)))
    quote = start, data.draw(st.integers(start, len(text)))
    taken = data.draw(st.integers(0, len(text)))
    words = data.draw(st.text(max_size=5) | st.just(text[taken : taken + 20].swapcase()))
    span = locate_near(text, words, quote)
    if span is not None:
        assert 0 <= span[0] < span[1] <= len(text)
        assert quote[0] - NEAR_CHARS <= span[0]
        assert span[1] <= quote[1] + NEAR_CHARS
        assert locate(text[slice(*span)], words) == (0, span[1] - span[0])


def test_a_long_quote_is_cut_between_words() -> None:
    text = "the sound is warm and " * 20
    end = shortened(text, 0, len(text), "warm")
    assert 100 < end <= MAX_QUOTE_CHARS
    assert text[end] == " "
    assert shortened("x" * 500, 0, 500, "warm") == MAX_QUOTE_CHARS
    assert shortened("音" * 500, 0, 500, "warm") == (MAX_PAIR_BYTES - len("warm")) // 3


@given(ANY, st.integers(1, 120))
def test_a_phrase_is_clean(phrase: str, limit: int) -> None:
    cleaned = clean(phrase, limit)
    assert utf8_bytes(cleaned) <= limit
    assert cleaned == cleaned.strip()
    assert "  " not in cleaned
    assert "\n" not in cleaned
