"""Texts as the network reads them: whole sentences, as many as fit into a window of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokenizers import Tokenizer

from services.extractor.findings import Span
from services.extractor.sentences import sentences_of
from shared.embedding import encodable

WINDOW_TOKENS: Final = 128  # what the encoder was trained with


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens of a text with [CLS] before and [SEP] behind them; `places` are code points of the whole text."""

    row: int  # of the text
    ids: tuple[int, ...]
    places: tuple[Span, ...]  # of the tokens; [CLS] and [SEP] have (0, 0)


class Windows:
    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._cls, self._sep = tokenizer.encode("").ids

    def of(self, texts: Sequence[str]) -> list[Window]:
        """Every token of every text is in one window."""
        spans = [(row, start, end) for row, text in enumerate(texts) for start, end in sentences_of(text)]
        sentences = [encodable(texts[row][start:end]) for row, start, end in spans]
        encoded = self._tokenizer.encode_batch(sentences, add_special_tokens=False)
        windows: list[Window] = []
        ids: list[int] = []
        places: list[Span] = []
        row = -1
        for (of_row, start, _), encoding in zip(spans, encoded, strict=True):
            for cut in range(0, len(encoding.ids), WINDOW_TOKENS - 2):
                part = slice(cut, cut + WINDOW_TOKENS - 2)
                if ids and (of_row != row or len(ids) + len(encoding.ids[part]) > WINDOW_TOKENS - 2):
                    windows.append(self._window(row, ids, places))
                    ids, places = [], []
                row = of_row
                ids.extend(encoding.ids[part])
                places.extend((start + a, start + b) for a, b in encoding.offsets[part])
        if ids:
            windows.append(self._window(row, ids, places))
        return windows

    def _window(self, row: int, ids: Sequence[int], places: Sequence[Span]) -> Window:
        return Window(row, (self._cls, *ids, self._sep), ((0, 0), *places, (0, 0)))
