"""Which texts are surely not English, for those who read nothing else."""

from typing import Final

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from shared.events import utf8_bytes

ENGLISH: Final = "en"
NO_LANGUAGE: Final = "zxx"  # numbers, addresses, signs
# Told apart, by ISO 639; labels of a metric. Not all 139 that the model knows: fewer are faster, and one of the others
# (Nigerian Pidgin) takes carelessly written English for its own. What is in none of these is mostly near to one.
LANGUAGES: Final = (
    "ar", "bg", "bn", "ca", "cs", "da", "de", "el", ENGLISH, "es", "et", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id",
    "it", "ja", "ko", "lt", "lv", "ms", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv", "ta", "th", "tl",
    "tr", "uk", "ur", "vi", "zh", NO_LANGUAGE,
)  # fmt: skip
READ_CHARS: Final = 200  # more takes longer and changes few answers
FEWEST_BYTES: Final = 12  # bytes, since a Chinese word of two letters tells as much as an English one of six
# Probability of English below which a text surely is not: no review of 17,851 English ones is (docs/extraction.md).
SURELY_NOT: Final = 0.01


class Languages:
    """py3langid's model of bytes: equal texts get equal answers. It takes a second and 85 MB to load."""

    def __init__(self) -> None:
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self._identifier.set_languages(LANGUAGES)

    def foreign(self, text: str) -> str | None:
        """The language of a text that is surely not English; None: it is, or is too short or too odd to be sure."""
        read = text[:READ_CHARS]
        if utf8_bytes(read) < FEWEST_BYTES:
            return None
        ranked: list[tuple[str, float]] = self._identifier.rank(read)
        likeliest = ranked[0][0]
        return likeliest if dict(ranked)[ENGLISH] < SURELY_NOT and likeliest != NO_LANGUAGE else None
