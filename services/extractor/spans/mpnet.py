"""MPNet (Song et al. 2020, arXiv 2004.09297) as an Encoder, to teach the small network; nothing serves with it.

It takes the token ids of the bundled MiniLM: both split text by the same words, BERT's, and number them differently.
"""

import json
import math
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from shared.embedding import Config, Encoder

KIND: Final = "mpnet"
_POSITIONS: Final = 2  # of its table, before the first token's
_BUCKETS: Final = 32  # of the distance of two tokens; half of them for each direction
_FAR: Final = 128  # tokens from which all distances are one bucket
_SPECIAL: Final = {"[CLS]": "<s>", "[SEP]": "</s>", "[PAD]": "<pad>", "[MASK]": "<mask>"}


class MPNet(Encoder):
    """A BERT encoder whose attention knows how far two tokens are apart (T5's buckets, arXiv 1910.10683)."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.apart = nn.Embedding(_BUCKETS, config.num_attention_heads)

    def states(self, ids: Tensor, real: Tensor) -> Tensor:
        """(B, T), (B, T) bool -> (B, T, E), each token's of mean 0 and variance 1: its own are small at the end."""
        t = ids.shape[1]
        x: Tensor = self.norm(self.word(ids) + self.position.weight[_POSITIONS : _POSITIONS + t])
        apart = self.apart(buckets(t)).permute(2, 0, 1)[None]  # (1, H, T, T)
        mask = apart.masked_fill(~real[:, None, None, :], float("-inf"))  # (B, H, T, T)
        for layer in self.layers:
            x = layer(x, mask)
        return F.layer_norm(x.float(), (self.dim,))


def buckets(tokens: int) -> Tensor:
    """(T, T): the bucket of how far the column's token lies behind the row's, or before it."""
    place = torch.arange(tokens)
    before = place[:, None] - place[None, :]
    near = _BUCKETS // 4  # distances with a bucket of their own
    growth = torch.log(before.abs().clamp(min=1) / near) / math.log(_FAR / near)
    far = (near + (growth * near).long()).clamp(max=_BUCKETS // 2 - 1)
    return torch.where(before.abs() < near, before.abs(), far) + (before < 0) * (_BUCKETS // 2)


def load(folder: Path, minilm: Tokenizer) -> MPNet:
    """From a folder with config.json, model.safetensors and tokenizer.json. Raises OSError, KeyError, ValueError."""
    given = json.loads((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    rows = _rows(Tokenizer.from_file(str(folder / "tokenizer.json")), minilm)
    with torch.device("meta"):
        encoder = MPNet(_config(given, len(rows)))
    encoder.load_state_dict(_renamed(weights, rows, given), assign=True)
    return encoder.eval().requires_grad_(False)


def _config(given: dict[str, Any], words: int) -> Config:
    named = {name: given[name] for name in Config.__dataclass_fields__ if name in given}
    return Config(**{**named, "vocab_size": words, "type_vocab_size": 1})


def _rows(theirs: Tokenizer, minilm: Tokenizer) -> Tensor:
    """Of their table of words, in our order. Raises ValueError where they do not know a word of ours."""
    words = minilm.get_vocab()
    found = {number: theirs.token_to_id(_SPECIAL.get(word, word)) for word, number in words.items()}
    if None in found.values():
        raise ValueError("the tokenizer does not split text as the bundled MiniLM's does")
    return torch.tensor([found[number] for number in range(len(words))])


def _renamed(given: dict[str, Tensor], rows: Tensor, config: dict[str, Any]) -> dict[str, Tensor]:
    """Hugging Face's names of MPNet's weights -> ours."""
    ours = {
        "word.weight": given["embeddings.word_embeddings.weight"][rows],
        "position.weight": given["embeddings.position_embeddings.weight"],
        "kind.weight": torch.zeros(1, config["hidden_size"]),
        "apart.weight": given["encoder.relative_attention_bias.weight"],
    }
    for kind in ("weight", "bias"):
        ours[f"norm.{kind}"] = given[f"embeddings.LayerNorm.{kind}"]
        for i in range(config["num_hidden_layers"]):
            theirs = f"encoder.layer.{i}."
            ours[f"layers.{i}.qkv.{kind}"] = torch.cat(
                [given[f"{theirs}attention.attn.{part}.{kind}"] for part in "qkv"]
            )
            for name, their_name in _LAYER.items():
                ours[f"layers.{i}.{name}.{kind}"] = given[f"{theirs}{their_name}.{kind}"]
    return ours


_LAYER: Final = {
    "out": "attention.attn.o",
    "norm1": "attention.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
