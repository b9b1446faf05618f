import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import space
from shared.events import EARLIEST
from shared.experiments import texts
from shared.space import Floats, dequantise

NAMES = {"id2attribute": {"1": "COKA", "2": "Makeup", "3": "Nails &amp; Toes"}}


class Embedder:
    """Embeds a text as one axis, and remembers what it was asked."""

    dim = 384
    asked: list[str]

    def __init__(self) -> None:
        type(self).asked = []

    def embed(self, texts_: Sequence[str], max_tokens: int) -> Floats:
        self.asked.extend(texts_)
        vectors = np.zeros((len(texts_), self.dim), np.float32)
        vectors[np.arange(len(texts_)), [len(text) for text in texts_]] = 1.0
        return vectors


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> type[Embedder]:
    monkeypatch.setattr(texts, "Embedder", Embedder)
    return Embedder


def write(path: Path, what: Any) -> Path:
    path.write_bytes(gzip.compress(json.dumps(what).encode()))
    return path


def test_an_items_text_is_its_brand_and_categories(tmp_path: Path) -> None:
    attributes = write(tmp_path / "a.gz", {"7": [1, 2], "8": [3], "9": [], "10": [99]})
    told = texts.item_texts(attributes, write(tmp_path / "n.gz", NAMES))
    assert told == {"7": "COKA, Makeup", "8": "Nails & Toes"}


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="id2attribute"):
        texts.item_texts(write(tmp_path / "a", {}), write(tmp_path / "n", {}))
    with pytest.raises(ValueError, match="no JSON object"):
        texts.item_texts(write(tmp_path / "a", []), write(tmp_path / "n", NAMES))


def test_equal_texts_are_embedded_once_and_all_is_kept(tmp_path: Path, embedder: type[Embedder]) -> None:
    told = {"b": "four", "a": "three", "c": "four"}
    first = list(texts.semantics(told, space.load(), tmp_path / "cache"))
    assert sorted(embedder.asked) == ["four", "three"]
    assert [fact.item_id for fact in first] == ["a", "b", "c"]
    assert [int(dequantise(fact.vector).argmax()) for fact in first] == [5, 4, 4]
    assert {fact.ts for fact in first} == {EARLIEST}
    embedder.asked.clear()
    assert list(texts.semantics(told, space.load(), tmp_path / "cache")) == first
    assert not embedder.asked, "read from the cache"
    list(texts.semantics({**told, "a": "other"}, space.load(), tmp_path / "cache"))
    assert sorted(embedder.asked) == ["four", "other"]


def test_a_write_that_ended_early_is_no_cache(
    tmp_path: Path, embedder: type[Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(file: Any, found: Any, allow_pickle: bool) -> None:
        file.write(b"\x93NUMPY")
        raise OSError("disk full")

    with monkeypatch.context() as full:
        full.setattr(texts.np, "save", cut)
        with pytest.raises(OSError, match="disk full"):
            list(texts.semantics({"a": "x"}, space.load(), tmp_path))
    assert len(list(texts.semantics({"a": "x"}, space.load(), tmp_path))) == 1
