"""services/extractor/languages.py: foreign texts are told, English ones never lost, and no text is too odd."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.extractor.languages import ENGLISH, LANGUAGES, NO_LANGUAGE, Languages

DATA = Path(__file__).parents[4] / "shared" / "data"
# Of Musical Instruments; they are Spanish.
SPANISH = ("como siempre esta", "Al ser el producto", "Excelente pedal!!!", "Pedal infaltable", "Es el output")


@pytest.fixture(scope="module")
def languages() -> Languages:
    return Languages()


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Leider ist der Gurt nach einer Woche gerissen, das Material fühlt sich billig an.", "de"),
        ("Der Klang ist warm und der Preis ist fair.", "de"),
        ("La sangle s'est cassée au bout d'une semaine, je suis très déçu.", "fr"),
        ("La correa se rompió después de una semana, el material parece barato.", "es"),
        ("Il suono è caldo e il prezzo è giusto.", "it"),
        ("A correia partiu depois de uma semana, o material parece barato.", "pt"),
        ("De band brak na een week, het materiaal voelt goedkoop aan.", "nl"),
        ("Pasek zerwał się po tygodniu, materiał wydaje się tani.", "pl"),
        ("Kayış bir hafta sonra koptu, malzemesi ucuz hissettiriyor.", "tr"),
        ("KLINGT LEIDER SEHR DÜNN UND RAUSCHT STÄNDIG.", "de"),
        ("Ремень порвался через неделю.", "ru"),
        ("背带用了一周就断了,材料感觉很便宜。", "zh"),
        ("ストラップが一週間で切れました。", "ja"),
        ("스트랩이 일주일 만에 끊어졌어요.", "ko"),
        ("انقطع الحزام بعد أسبوع والخامة رخيصة.", "ar"),
    ],
)
def test_a_foreign_text_is_told_by_its_language(languages: Languages, text: str, language: str) -> None:
    assert languages.foreign(text) == language


@pytest.mark.parametrize(
    "text",
    [
        "", "ok", "Très bien", "很好。", "!!!", "12345 6789 0000 42", "👍👍👍👍👍", "B07XYZ1234 B07XYZ9999",
        "http://www.example.com/abc?d=1", "\x00" * 40, "Great!", "Excellent Christmas gift", "GREAT PRODUCT!!!! LOVE IT",
        "Gr8 prod thx", "Fender Stratocaster MIM Squier", "it aint bad fo real doe ya'll", "I am ADDICTED to photo booth !",
        "The sound of it ist gut, aber teuer, very nice",
    ],
)  # fmt: skip
def test_what_is_english_short_or_odd_is_not_foreign(languages: Languages, text: str) -> None:
    assert languages.foreign(text) is None


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=[]), max_size=400))
def test_any_text_gets_one_of_the_languages_and_always_the_same(languages: Languages, text: str) -> None:
    told = languages.foreign(text)
    assert told is None or told in set(LANGUAGES) - {ENGLISH, NO_LANGUAGE}
    assert languages.foreign(text) == told


def english() -> Iterator[str]:
    """Every fourth of the reviews that the project's figures are of."""
    for file in sorted(DATA.glob("*/*_5.json.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line).get("reviewText", "") for line in list(lines)[::4])
    for file in sorted(DATA.glob("absa_*/*.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            yield from (line.partition("####")[0] for line in list(lines)[::4])


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_no_english_review_is_lost(languages: Languages) -> None:
    texts = [text for text in english() if not text.startswith(SPANISH)]
    assert len(texts) > 4000
    assert [text for text in texts if languages.foreign(text)] == []
