"""Item texts from S3-Rec's attribute files, embedded once and kept: brand and category names are all they have."""

import hashlib
import html
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from shared.embedding import WHEEL, Embedder
from shared.events import EARLIEST, ItemSemantics, Source, content_hash
from shared.experiments.bar import counted
from shared.local.reviews import open_file
from shared.space import Space, quantise

BATCH: Final = 256
TOKENS: Final = 64
NOWHERE: Final = Source("", 0, 0, 0.0)


def item_texts(attributes: Path, names: Path) -> dict[str, str]:
    """item -> its brand and categories in words. Raises OSError, or ValueError for what is not of S3-Rec's form."""
    of_item, called = _json(attributes), _json(names).get("id2attribute")
    if not isinstance(called, dict):
        raise ValueError(f"{names.name} has no id2attribute")
    texts = {}
    for item_id, ids in of_item.items():
        told = [html.unescape(str(called[str(i)])) for i in ids if str(i) in called]
        if told:
            texts[item_id] = ", ".join(told)
    return texts


def semantics(texts: Mapping[str, str], space: Space, cache: Path) -> Iterator[ItemSemantics]:
    """Facts as the extractor would tell them, known from the earliest time on. Raises EmbeddingUnavailable."""
    ids = sorted(texts)
    vectors = _vectors([texts[item_id] for item_id in ids], space, cache)
    for item_id, vector in zip(ids, vectors, strict=True):
        yield ItemSemantics(
            item_id=item_id, ts=EARLIEST, space=space.name, extractor_version=1,
            content_hash=content_hash(texts[item_id]), vector=vector.tobytes(), source=NOWHERE,
        )  # fmt: skip


def _vectors(texts: list[str], space: Space, cache: Path) -> NDArray[np.int8]:
    """(N, E), of the texts in order."""
    key = hashlib.sha256("\0".join([WHEEL, space.name, str(TOKENS), *texts]).encode()).hexdigest()[:24]
    path = cache / f"texts-{key}.npy"
    if path.exists():
        kept: NDArray[np.int8] = np.load(path, allow_pickle=False)
        return kept
    found = _embedded(texts, space)
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{uuid4().hex[:8]}.tmp")
    with unfinished.open("wb") as file:
        np.save(file, found, allow_pickle=False)
    unfinished.replace(path)  # what has the name is whole
    return found


def _embedded(texts: list[str], space: Space) -> NDArray[np.int8]:
    embedder = Embedder()
    if embedder.dim != space.embedding_dim:
        raise ValueError(f"space {space.name} is of {space.embedding_dim} dimensions, the embedding of {embedder.dim}")
    distinct = sorted(set(texts), key=len)  # texts of like length together: little is padded
    of_text: dict[str, bytes] = {}
    with counted("embedding item texts", len(distinct)) as done:
        for start in range(0, len(distinct), BATCH):
            batch = distinct[start : start + BATCH]
            of_text.update(zip(batch, quantise(embedder.embed(batch, TOKENS)), strict=True))
            done(len(batch))
    return np.frombuffer(b"".join(of_text[text] for text in texts), np.int8).reshape(len(texts), embedder.dim)


def _json(path: Path) -> dict[str, Any]:
    with open_file(path) as file:
        found = json.load(file)
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return found
