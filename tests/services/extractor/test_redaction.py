"""services/extractor/redaction.py: addresses and numbers are hidden, opinions are not, and nothing moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.extractor.redaction import HIDDEN, Redaction, redacted
from services.extractor.spacy_pipeline import ModelUnavailable
from services.extractor.worker import Worker

BOTH = ("addresses", "numbers")


@pytest.mark.parametrize(
    "secret",
    ["jo.doe+x@mail.example.co.uk", "JO@EXAMPLE.COM", "jo @ example.com", "o'neil@example.org", "+49 30 1234567",
     "(555) 123-4567", "555-123-4567", "555.123.4567", "0170/1234567", "+1 (555) 123 4567", "5551234567"],
)  # fmt: skip
def test_addresses_and_numbers_are_hidden_and_the_rest_stays(secret: str) -> None:
    shown = redacted(f"Broke in a week, write to {secret}, or call. Bad seller!", BOTH)
    assert shown.startswith("Broke in a week, write to ")
    assert shown.endswith(", or call. Bad seller!")
    assert not any(character.isalnum() for character in shown[26:-22])


@pytest.mark.parametrize(
    "text",
    ["Works since 2013-11-24.", "Bought on 11/24/2013.", "It cost $1,299.00 and 12 strings broke.", "10 out of 10",
     "Model SM57-LCE sounds great at 50 - 15000 Hz", "20 mm by 35 mm", "@home it is fine", "1234567890123456789"],
)  # fmt: skip
def test_dates_prices_sizes_and_models_are_no_numbers_to_call(text: str) -> None:
    assert redacted(text, BOTH) == text


def test_only_what_is_named_is_hidden() -> None:
    text = "jo@example.com or 555-123-4567"
    assert redacted(text, ("numbers",)).startswith("jo@example.com or ")
    assert redacted(text, ("addresses",)).endswith(" or 555-123-4567")
    assert redacted(text, ()) == text


@given(st.text(st.sampled_from("ab1 2.3@+-()/\n\ud800é█"), max_size=80))
def test_nothing_moves_and_what_is_hidden_once_stays_hidden(text: str) -> None:
    shown = redacted(text, BOTH)
    assert len(shown) == len(text)
    assert all(new in (old, HIDDEN) for old, new in zip(text, shown, strict=True))
    assert redacted(shown, BOTH).count(HIDDEN) >= shown.count(HIDDEN)


def test_a_long_run_of_digits_or_letters_takes_no_time() -> None:
    for text in ("1 " * 20_000, "a" * 40_000, "a@" * 20_000, "1-" * 20_000 + "x", "(1)" * 13_000):
        assert len(redacted(text, BOTH)) == len(text)


async def test_names_of_people_are_hidden_where_asked_for_and_nothing_moves(worker: Worker) -> None:
    texts = ["Ask for Mary Johnson, or call 555-123-4567. Great sound!", "The strings broke.", "", "\ud800 bad"]
    plain = await Redaction(BOTH, worker)(texts)
    assert plain[0].startswith("Ask for Mary Johnson, or call █")
    shown = await Redaction((*BOTH, "names"), worker)(texts)
    assert shown[0] == "Ask for ████ ███████, or call ████████████. Great sound!"
    assert shown[1:] == texts[1:]


def test_names_without_what_finds_them_are_refused(worker: Worker) -> None:
    with pytest.raises(ModelUnavailable, match="FINESTREAM_SPACY_MODEL"):
        Redaction(("names",), worker, "no_such_model")
