"""mPLUG's text side from a BERT folder, as the reference starts.

The text encoder takes BERT's embeddings and its first layers, the fusion encoder its last layers (mPLUG: six of twelve
each), the decoder embeddings, layers from the first on, and the head that restores masked words. BERT has no
cross-attention: that of fusion and decoder starts from BERT's own distribution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mplug.checkpoints.names import BERT_LAYER
from mplug.errors import MplugError
from mplug.fusion_encoder import FusionEncoder
from mplug.layers import CrossLayer
from mplug.text_decoder import DecoderHead, TextDecoder
from mplug.text_encoder import TextEncoder
from mplug.train.initialise import load_bert

INITIAL_STD = 0.02
"""BERT's `initializer_range`."""
_OLD_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Bert:
    """A BERT checkpoint."""

    where: Path
    tensors: Mapping[str, Tensor]
    """By their names in a `BertModel`; the head's begin with `cls.`."""
    pieces: Sequence[str]
    """Its vocabulary."""

    @property
    def hidden(self) -> int:
        """Width of the stream."""
        return self.tensors["embeddings.word_embeddings.weight"].shape[1]

    @property
    def layers(self) -> int:
        """How many there are."""
        return 1 + max(int(match[1]) for name in self.tensors if (match := _LAYER.match(name)))

    @property
    def has_head(self) -> bool:
        """Whether it restores masked words: sentence encoders have lost that."""
        return "cls.predictions.transform.dense.weight" in self.tensors


def read_bert(folder: Path) -> Bert:
    """Read `vocab.txt` and `model.safetensors` or `pytorch_model.bin`, whatever head they were saved with.

    Raises:
        MplugError: a file is missing, or it is no BERT.
    """
    weights = [folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    found = next((path for path in weights if path.is_file()), None)
    if found is None or not (folder / "vocab.txt").is_file():
        raise MplugError(
            f"{folder} is no BERT folder: it needs vocab.txt, and model.safetensors or pytorch_model.bin"
        )
    stored = load_file(found) if found.suffix == ".safetensors" else _load_pickle(found)
    tensors = {_modern(name): tensor for name, tensor in stored.items()}
    if "embeddings.word_embeddings.weight" not in tensors:
        raise MplugError(
            f"{found} holds no BERT: there are no word embeddings among its {len(tensors)} tensors"
        )
    return Bert(found, tensors, (folder / "vocab.txt").read_text(encoding="utf-8").splitlines())


def start_text_encoder(encoder: TextEncoder, bert: Bert, vocab: Sequence[str]) -> None:
    """Embeddings and first layers; rows of pieces that BERT does not know are near the mean of those it knows.

    Args:
        encoder: filled in place.
        bert: of the same width, with at least as many layers.
        vocab: the encoder's pieces, of which BERT's rows are found by name.

    Raises:
        MplugError: another width, or too few layers.
    """
    _check("text_encoder", encoder.config.hidden, encoder.config.layers, bert)
    load_bert(encoder, dict(bert.tensors), bert.pieces, vocab)


def start_fusion_encoder(fusion: FusionEncoder, bert: Bert) -> None:
    """The last layers; cross-attention starts at random. Arguments and errors as in `start_text_encoder`."""
    _check("fusion_encoder", fusion.config.hidden, fusion.config.layers, bert)
    first = bert.layers - len(fusion.layers)
    for number, layer in enumerate(fusion.layers):
        _fill_layer(layer, bert, first + number)


def start_decoder(decoder: TextDecoder, bert: Bert, vocab: Sequence[str]) -> None:
    """Embeddings, layers from the first on, and the head where BERT has one; as `start_text_encoder`."""
    _check("text_decoder", decoder.config.hidden, decoder.config.layers, bert)
    load_bert(decoder, dict(bert.tensors), bert.pieces, vocab)
    for layer in decoder.layers:
        _freshen(layer)
    start_head(decoder.head, bert, vocab)


@torch.no_grad()
def start_head(head: DecoderHead, bert: Bert, vocab: Sequence[str]) -> None:
    """The head that restores masked words; it stays as it is where BERT has none."""
    if not bert.has_head:
        return
    for ours, theirs in (("dense", "transform.dense"), ("norm", "transform.LayerNorm")):
        _copy(head.get_submodule(ours), bert, f"cls.predictions.{theirs}")
    row_of = {piece: row for row, piece in enumerate(bert.pieces)}
    bias = bert.tensors["cls.predictions.bias"]
    for row, piece in enumerate(vocab):
        if piece in row_of:
            head.bias[row] = bias[row_of[piece]]


def _check(part: str, hidden: int, layers: int, bert: Bert) -> None:
    if hidden != bert.hidden or layers > bert.layers:
        raise MplugError(
            f"{part} is {hidden} wide and has {layers} layers; {bert.where} is {bert.hidden} wide and has {bert.layers}"
        )


def _fill_layer(layer: nn.Module, bert: Bert, number: int) -> None:
    for theirs, ours in BERT_LAYER:
        _copy(layer.get_submodule(ours), bert, f"encoder.layer.{number}.{theirs}")
    _freshen(layer)


def _freshen(layer: nn.Module) -> None:
    if isinstance(layer, CrossLayer):
        for part in layer.cross_attention.children():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=INITIAL_STD)
                nn.init.zeros_(part.bias)


def _copy(module: nn.Module, bert: Bert, name: str) -> None:
    module.load_state_dict({kind: bert.tensors[f"{name}.{kind}"] for kind in ("weight", "bias")})


def _load_pickle(path: Path) -> dict[str, Tensor]:
    stored: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return stored


def _modern(name: str) -> str:
    for old, new in _OLD_NAMES:
        name = name.replace(old, new)
    return name.removeprefix("bert.")
