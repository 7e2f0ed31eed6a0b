"""Golden cases of mPLUG as the folders that users have, and a tiny model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from golden.drawn_weights import drawn_weights
from mplug.config import (
    FusionEncoderConfig,
    ImageEncoderConfig,
    MplugConfig,
    TextDecoderConfig,
    TextEncoderConfig,
)
from mplug.preprocess import PreprocessConfig
from mplug.retrieval import RetrievalModel
from mplug.task_model import TaskModel
from mplug.text.tokenizer import WordPieceTokenizer

M = TypeVar("M", bound=TaskModel)

GOLDEN = Path(__file__).parent
CASES = ("caption_large", "retrieval_large", "vqa_base", "vqa_distill", "vqa_large", "vqa_stride6")
WEIGHTS_OF = {"vqa_stride6": "vqa_large"}
"""Cases that run another's weights under settings of their own."""


@dataclass(frozen=True)
class GoldenCase:
    """One run of the reference."""

    name: str
    settings: dict[str, Any]
    bert: dict[str, Any]
    described: dict[str, Any]
    """The whole json: generation settings with their ids and scores, losses of a training step."""
    weights: dict[str, Tensor]
    io: dict[str, Tensor]

    def write_modelscope(self, folder: Path, weights: Mapping[str, Any] | None = None) -> Path:
        """Write the folder as the hub has it; `weights` replaces the plain state dict."""
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(self.settings))
        (folder / self.settings["bert_config"]).write_text(json.dumps(self.bert))
        (folder / "vocab.txt").write_text(
            "".join(f"{piece}\n" for piece in small_vocab(self.bert["vocab_size"]))
        )
        torch.save(self.weights if weights is None else weights, folder / "pytorch_model.bin")
        return folder


def small_vocab(size: int) -> list[str]:
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    return [special.get(number, f"piece{number}") for number in range(size)]


def read_case(name: str) -> GoldenCase:
    described = json.loads((GOLDEN / "mplug" / f"{name}.json").read_text())
    return GoldenCase(
        name=name,
        settings=described["config_yaml"],
        bert=described["config_bert"],
        described=described,
        weights=drawn_weights("mplug", WEIGHTS_OF.get(name, name)),
        io=load_file(GOLDEN / "mplug" / f"{name}.io.safetensors"),
    )


def tiny_config(**changes: Any) -> MplugConfig:
    values: dict[str, Any] = {
        "name": "tiny",
        "image_encoder": ImageEncoderConfig(
            backbone="timm:vit_base_patch16_clip_quickgelu_224",
            backbone_options={"img_size": 32, "patch_size": 16, "embed_dim": 64, "depth": 1, "num_heads": 1},
            width=64,
            adapter_width=48,
        ),
        "text_encoder": TextEncoderConfig(vocab_size=130, hidden=48, layers=1, heads=4, ffn=64, positions=40),
        "embed_dim": 16,
        "preprocess": PreprocessConfig(image_size=32),
    }
    return MplugConfig(**{**values, **changes})


def tiny_whole_config(**changes: Any) -> MplugConfig:
    """A tiny model of every task: three asymmetric layers and a connected one, then two layers of decoder."""
    values: dict[str, Any] = {
        "fusion_encoder": FusionEncoderConfig(
            hidden=48, layers=4, stride_layer=2, heads=4, ffn=64, memory_width=48
        ),
        "text_decoder": TextDecoderConfig(
            vocab_size=130, hidden=48, layers=2, heads=4, ffn=64, positions=40, memory_width=48
        ),
    }
    return tiny_config(**{**values, **changes})


def tiny(kind: type[M], config: MplugConfig | None = None, *, seed: int = 0) -> M:
    """Build a tiny model of a task; the same seed and configuration give the same weights."""
    config = config or tiny_whole_config()
    tokenizer = WordPieceTokenizer(small_vocab(130), max_length=config.max_text_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config, tokenizer).eval()


def tiny_model(
    config: MplugConfig | None = None, *, seed: int = 0, vocab: list[str] | None = None
) -> RetrievalModel:
    """Build a tiny model; the same seed and configuration give the same weights."""
    config = config or tiny_config()
    tokenizer = WordPieceTokenizer(vocab or small_vocab(130), max_length=config.max_text_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RetrievalModel(config, tokenizer).eval()


def some_pixels(count: int = 2, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def some_text() -> tuple[Tensor, Tensor]:
    """Two texts of unequal length: ids and mask."""
    ids = torch.tensor([[101, 7, 8, 9, 102], [101, 11, 102, 0, 0]])
    return ids, ids != 0
