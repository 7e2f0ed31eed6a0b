"""Golden cases of Chinese GPT-3 as the folders that users have."""

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
from mplug.gpt3.config import Gpt3Config, Layout
from mplug.gpt3.generator import Gpt3Generator
from mplug.gpt3.names import sources
from mplug.gpt3.settings import read_settings
from mplug.gpt3.texts import Gpt3Tokenizer
from mplug.text.jieba_bpe import JiebaBpeTokenizer
from mplug.text.tokenizer import WordPieceTokenizer

CASES = ("base", "dist")
TOKENIZER = GOLDEN / "extras" / "jieba_bpe_tokenizer.json"


@dataclass(frozen=True)
class Gpt3Case:
    """One run of the reference. Any: JSON."""

    name: str
    described: dict[str, Any]
    """The whole json: configuration, generation settings with their ids and scores, losses."""
    weights: dict[str, Tensor]
    io: dict[str, Tensor]

    @property
    def generation(self) -> dict[str, Any]:
        stored: dict[str, Any] = self.described["generation"]
        return stored

    def write(self, folder: Path, *, files: int = 1, **changes: Any) -> Path:
        """Write the folder as the hub has it.

        Args:
            folder: made where needed.
            files: ranks of the distributed case; the golden two are those that the reference itself was given.
            changes: of `config.json`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({**self.described["config"], **changes}))
        if self.name == "base":
            (folder / "configuration.json").write_text(json.dumps({"model": {"type": "gpt3"}}))
            (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in small_vocab(128)))
            torch.save(
                {f"model.{name}": tensor for name, tensor in self.weights.items()},
                folder / "pytorch_model.bin",
            )
            return folder
        (folder / "configuration.json").write_text(json.dumps(self.described["configuration"]))
        (folder / "tokenizer.json").write_text(small_tokenizer())
        self._write_ranks(folder, files)
        return folder

    def _write_ranks(self, folder: Path, files: int) -> None:
        (folder / "model").mkdir(exist_ok=True)
        split = {source.name: source.split for source in sources(read_settings(folder))}
        for rank in range(files):
            state = {
                name: tensor if split[name] is None else tensor.chunk(files, split[name] or 0)[rank].clone()
                for name, tensor in self.weights.items()
            }
            torch.save({"module": state}, folder / "model" / f"mp_rank_{rank:02d}_model_states.pt")


def read_gpt3_case(name: str) -> Gpt3Case:
    return Gpt3Case(
        name=name,
        described=json.loads((GOLDEN / "gpt3" / f"{name}.json").read_text()),
        weights=drawn_weights("gpt3", name),
        io=load_file(GOLDEN / "gpt3" / f"{name}.io.safetensors"),
    )


def small_tokenizer(size: int = 128) -> str:
    """The golden tokenizer's first tokens as a tokenizer of their own: the golden model has no more."""
    values: Mapping[str, Any] = json.loads(TOKENIZER.read_text())
    vocab = {token: number for token, number in values["model"]["vocab"].items() if number < size}
    added = [token for token in values["added_tokens"] if token["id"] < size]
    model = {**values["model"], "vocab": vocab, "merges": []}
    return json.dumps({**values, "added_tokens": added, "model": model})


def tiny_generator(layout: Layout = "distributed", *, seed: int = 0, **changes: Any) -> Gpt3Generator:
    """A generator whose every parameter is random, large enough that its distributions are not flat."""
    plain = layout == "plain"
    sizes: dict[str, Any] = {
        "vocab_size": 400,
        "hidden": 32,
        "layers": 2,
        "heads": 4,
        "ffn": 64,
        "positions": 48,
    }
    rest: dict[str, Any] = {"approximate": "none" if plain else "tanh", "dropout": 0.0, "eod_id": 3}
    config = Gpt3Config(**{"name": "tiny", "layout": layout, **sizes, **rest, **changes})
    tokenizer: Gpt3Tokenizer = (
        WordPieceTokenizer(small_vocab(400), max_length=min(config.prompt_tokens, config.positions))
        if plain
        else JiebaBpeTokenizer.from_file(TOKENIZER, max_length=config.positions)
    )
    generator = Gpt3Generator(config, tokenizer).eval()
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=numbers))
    return generator
