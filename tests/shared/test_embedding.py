"""shared/embedding.py: the encoder computes what BERT's paper says, alike in any batch, and means what it says."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from shared import embedding
from shared.embedding import Embedder, EmbeddingUnavailable

TEXTS = [
    "The battery dies fast.",
    "Battery life is far too short.",
    "A lovely, warm tone.",
    "great",
    "",
    "The seller shipped it on the same day and the box was intact, " * 12,
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


def test_vectors_are_of_unit_length_and_float32(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), embedder.dim)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert embedder.embed([]).shape == (0, embedder.dim)


@pytest.mark.parametrize(
    ("text", "paraphrase", "unrelated"),
    [
        ("The battery dies fast.", "Battery life is very short.", "A lovely, warm tone."),
        ("It arrived late.", "Delivery took too long.", "These strings sound bright."),
        ("too expensive", "overpriced", "comfortable strap"),
        ("A man is playing a guitar.", "Someone plays the guitar.", "The stock market fell on Monday."),
    ],
)
def test_paraphrases_are_closer_than_the_unrelated(
    embedder: Embedder, text: str, paraphrase: str, unrelated: str
) -> None:
    a, b, c = embedder.embed([text, paraphrase, unrelated])
    assert a @ b > 0.45
    assert a @ b > a @ c + 0.25


def test_a_vector_does_not_depend_on_its_batch(embedder: Embedder) -> None:
    together = embedder.embed(TEXTS)
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    backwards = embedder.embed(TEXTS[::-1])[::-1]
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together - backwards).max() < 1e-5


def test_padding_is_not_attended_to(embedder: Embedder) -> None:
    # One batch by force, however unlike the lengths: what is padded must not change.
    encodings = embedder._tokenizer.encode_batch(TEXTS)
    padded = embedder._encoder(*embedding.padded([encoding.ids for encoding in encodings]))
    assert np.abs(padded.numpy() - embedder.embed(TEXTS)).max() < 1e-5


def test_text_beyond_the_bound_is_ignored(embedder: Embedder) -> None:
    long = "the tone of this guitar is warm " * 50
    assert np.allclose(embedder.embed([long], 16), embedder.embed([long + "and the box was broken"], 16))
    assert not np.allclose(embedder.embed([long], 16), embedder.embed(["broken " + long], 16), atol=1e-3)


def test_texts_that_are_no_plain_english_are_embedded(embedder: Embedder) -> None:
    vectors = embedder.embed(["\ud800 lone surrogate", "\x00\x01", "字" * 5000, "👍🏽", " \n\t "])
    assert np.isfinite(vectors).all()


def reference(weights: Mapping[str, Tensor], ids: list[int], heads: int = 12, layers: int = 6) -> Tensor:
    """BERT written down from the paper, one text, float64, no batching: softmax(QK'/sqrt d)V, post-norm, mean."""
    w = {name: tensor.double() for name, tensor in weights.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / torch.sqrt(variance + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    e = "embeddings."
    x = w[f"{e}word_embeddings.weight"][ids] + w[f"{e}position_embeddings.weight"][: len(ids)]
    x = norm(x + w[f"{e}token_type_embeddings.weight"][0], f"{e}LayerNorm")  # (T, E)
    size = x.shape[1] // heads
    for i in range(layers):
        p = f"encoder.layer.{i}."
        q, k, v = (linear(x, f"{p}attention.self.{name}") for name in ("query", "key", "value"))
        context = torch.empty_like(x)
        for h in range(heads):
            s = slice(h * size, (h + 1) * size)
            context[:, s] = torch.softmax(q[:, s] @ k[:, s].T / math.sqrt(size), -1) @ v[:, s]
        x = norm(x + linear(context, f"{p}attention.output.dense"), f"{p}attention.output.LayerNorm")
        up = linear(x, f"{p}intermediate.dense")
        up = up * 0.5 * (1.0 + torch.erf(up / math.sqrt(2.0)))
        x = norm(x + linear(up, f"{p}output.dense"), f"{p}output.LayerNorm")
    mean = x.mean(0)
    return mean / mean.norm()


def test_the_encoder_computes_what_the_paper_says(embedder: Embedder) -> None:
    folder = embedding.bundled_folder()
    weights = load_file(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    vectors = embedder.embed(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        expected = reference(weights, tokenizer.encode(text).ids)
        assert np.abs(vector - expected.numpy()).max() < 2e-5


def test_another_folder_with_the_same_files_is_used(tmp_path: Path, embedder: Embedder) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(embedding.bundled_folder() / name, tmp_path / name)
    assert np.allclose(Embedder(tmp_path).embed(["a warm tone"]), embedder.embed(["a warm tone"]), atol=1e-6)


def test_a_folder_without_a_usable_model_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingUnavailable, match=str(tmp_path)):
        Embedder(tmp_path)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(embedding.bundled_folder() / name, tmp_path / name)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(EmbeddingUnavailable, match="BERT"):
        Embedder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 96}))
    with pytest.raises(EmbeddingUnavailable):
        Embedder(tmp_path)
