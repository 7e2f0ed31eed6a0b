"""Golden cases of PALM as the folders that users have, and a tiny one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from golden.drawn_weights import GOLDEN, drawn_weights
from golden.mplug_cases import small_vocab
from mplug.config import TextEncoderConfig
from mplug.palm.config import PalmConfig, PalmDecoderConfig
from mplug.palm.generator import PalmGenerator
from mplug.text.byte_bpe import ByteBpeTokenizer
from mplug.text.tokenizer import WordPieceTokenizer

CASES = ("zh_bert", "roberta")
BYTE_PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?<>",
    "Ġ",
    "Ċ",
]
MERGED_PIECES = ["he", "Ġt", "Ġthe", "Ġc", "at"]
MERGES = ["h e", "Ġ t", "Ġt he", "Ġ c", "a t"]


@dataclass(frozen=True)
class PalmCase:
    """One run of the reference. Any: JSON."""

    name: str
    described: dict[str, Any]
    """The whole json: configurations, generation settings with their ids and scores, losses."""
    weights: dict[str, Tensor]
    io: dict[str, Tensor]

    def write(self, folder: Path, weights: Mapping[str, Any] | None = None, **changes: Any) -> Path:
        """Write the folder as the hub has it.

        Args:
            folder: made where needed.
            weights: replaces the plain state dict.
            changes: of `config.json`.
        """
        config = {**self.described["config"], **changes}
        inner = folder / config["encoder_pth"]
        inner.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "configuration.json").write_text(json.dumps({"model": {"type": "palm-v2"}}))
        (inner / "config.json").write_text(json.dumps(self.described["encoder_config"]))
        if self.name == "roberta":
            small_byte_bpe(max_length=128).save(inner)
        else:
            (inner / "vocab.txt").write_text("".join(f"{piece}\n" for piece in small_vocab(130)))
        torch.save(self.weights if weights is None else weights, folder / "pytorch_model.bin")
        return folder


def read_palm_case(name: str) -> PalmCase:
    return PalmCase(
        name=name,
        described=json.loads((GOLDEN / "palm" / f"{name}.json").read_text()),
        weights=drawn_weights("palm", name),
        io=load_file(GOLDEN / "palm" / f"{name}.io.safetensors"),
    )


def small_byte_bpe(*, max_length: int, size: int = 130) -> ByteBpeTokenizer:
    known = [*BYTE_PIECES, *MERGED_PIECES]
    vocab = {piece: number for number, piece in enumerate(known)}
    vocab |= {f"piece{number}": number for number in range(len(known), size - 1)}
    vocab["<mask>"] = size - 1
    merges = "\n".join(["#version: 0.2", *MERGES, ""])
    return ByteBpeTokenizer(json.dumps(vocab, ensure_ascii=False), merges, max_length=max_length)


def tiny_palm(*, seed: int = 0, roberta: bool = False, **changes: Any) -> PalmGenerator:
    """A generator whose every parameter is random, large enough that its distributions are not flat."""
    special = (
        {"bos_id": 0, "eos_id": 2, "pad_id": 1} if roberta else {"bos_id": 101, "eos_id": 102, "pad_id": 0}
    )
    values: dict[str, Any] = {
        "name": "tiny",
        "kind": "roberta" if roberta else "zh_bert",
        "encoder": TextEncoderConfig(
            vocab_size=130, hidden=32, layers=1, heads=4, ffn=48, positions=40, pad_id=special["pad_id"]
        ),
        "decoder": PalmDecoderConfig(layers=2, heads=4, ffn=48, dropout=0.0, positions=64, **special),
        "max_length": 16,
    }
    config = PalmConfig(**{**values, **changes})
    tokenizer = (
        small_byte_bpe(max_length=config.max_length)
        if roberta
        else WordPieceTokenizer(small_vocab(130), max_length=config.max_length)
    )
    generator = PalmGenerator(config, tokenizer).eval()
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=numbers))
    return generator
