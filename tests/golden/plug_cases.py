"""Golden cases of PLUG as the folders that users have, and a tiny one."""

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
from mplug.plug.config import PlugConfig
from mplug.plug.generator import PlugGenerator
from mplug.text.tokenizer import WordPieceTokenizer

CASES = ("pre_ln", "post_ln")
VOCABULARY = 150


@dataclass(frozen=True)
class PlugCase:
    """One run of the reference. Any: JSON."""

    name: str
    described: dict[str, Any]
    """The whole json: configuration, generation settings with their ids and scores, losses."""
    weights: dict[str, Tensor]
    io: dict[str, Tensor]

    def write(
        self, folder: Path, *, ranks: int = 1, weights: Mapping[str, Tensor] | None = None, **changes: Any
    ) -> Path:
        """Write the folder as the hub has it.

        Args:
            folder: made where needed.
            ranks: files, parted as the reference says (`tp2_partition_info`; `post_ln` has none, and takes 1).
            weights: replace the golden ones.
            changes: of `config.json`.
        """
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({**self.described["config"], **changes}))
        (folder / "configuration.json").write_text(json.dumps({"model": {"type": "plug"}}))
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in small_vocab(VOCABULARY)))
        held = self.weights if weights is None else weights
        for rank in range(ranks):
            state = {name: self._part(name, tensor, rank, ranks) for name, tensor in held.items()}
            torch.save({"module": state}, folder / "model" / f"mp_rank_{rank:02d}_model_states.pt")
        return folder

    def _part(self, name: str, tensor: Tensor, rank: int, ranks: int) -> Tensor:
        if name == "cls.predictions.decoder_weight":
            name = "bert.embeddings.word_embeddings.weight"
        info = self.described["tp2_partition_info"].get(name)
        if info is None or ranks == 1:
            return tensor
        dim = info["partition_dim"]
        return torch.cat(tensor.chunk(ranks * info["partition_stride"], dim)[rank::ranks], dim)


def read_plug_case(name: str) -> PlugCase:
    return PlugCase(
        name=name,
        described=json.loads((GOLDEN / "plug" / f"{name}.json").read_text()),
        weights=drawn_weights("plug", name),
        io=load_file(GOLDEN / "plug" / f"{name}.io.safetensors"),
    )


def tiny_plug(*, seed: int = 0, pretraining: bool = False, **changes: Any) -> PlugGenerator:
    """A generator whose every parameter is random, large enough that its distributions are not flat."""
    values: dict[str, Any] = {
        "name": "tiny",
        "vocab_size": 160,
        "original_vocab_size": VOCABULARY,
        "hidden": 32,
        "layers": 2,
        "decoder_layers": 2,
        "heads": 4,
        "ffn": 48,
        "positions": 48,
        "dropout": 0.0,
        "max_length": 16,
    }
    config = PlugConfig(**{**values, **changes})
    tokenizer = WordPieceTokenizer(
        small_vocab(min(VOCABULARY, config.original_vocab_size)), max_length=config.max_length
    )
    generator = PlugGenerator(config, tokenizer, pretraining=pretraining).eval()
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=numbers))
    return generator
