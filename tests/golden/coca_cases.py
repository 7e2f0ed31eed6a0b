"""A tiny CoCa that open_clip builds by name, and what open_clip's own `generate` wrote with it."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FOLDER = Path(__file__).parent / "coca"
NAME = "coca_tiny"
MERGES = ["d o", "do g</w>", "c a", "ca t</w>", "t w", "tw o</w>", "a n", "an d</w>"]
BOS = 512 + len(MERGES)  # each byte, each byte at the end of a word, the merges
EOS = BOS + 1
BONUSES = {"eos": EOS, "pad": 0}
"""Tokens that a case makes likelier than the weights do."""


@dataclass(frozen=True)
class CocaCase:
    """One way of generating. Any: JSON."""

    name: str
    options: dict[str, Any]
    """Of open_clip's `generate`."""
    bonus: dict[str, float]
    """By name of a token, what is added to its logits."""
    ids: list[list[int]]
    """For each picture, from the start to the end, or to `seq_len`."""


@dataclass(frozen=True)
class CocaGolden:
    """Everything that is stored."""

    weights: dict[str, Tensor]
    pixels: Tensor
    """uint8 (B, 3, 32, 32)."""
    ids: Tensor
    """int64 (B, L): what was read by teacher forcing; some hold the token 0, which open_clip takes for padding."""
    logits: dict[str, Tensor]
    """float32 (B, L, V), by the kind of open_clip's mask, `legacy` or `correct`."""
    features: dict[str, Tensor]
    """float32 (B, E) of open_clip's `encode_image` and `encode_text`."""
    cases: list[CocaCase]


def read_golden() -> CocaGolden:
    tensors = load_file(FOLDER / "tiny.safetensors")
    described = json.loads((FOLDER / "tiny.json").read_text())
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = tensor
    weights = {name: tensor.float() for name, tensor in parts["weights"].items()}
    inputs = parts["inputs"]
    cases = [CocaCase(**case) for case in described["cases"]]
    return CocaGolden(weights, inputs["pixels"], inputs["ids"], parts["logits"], parts["features"], cases)


def register(folder: Path, name: str = NAME, **changes: dict[str, Any]) -> None:
    """Let open_clip know the tiny model.

    Args:
        folder: where its configuration and its tokenizer's merges are written.
        name: to build it by.
        changes: of whole sections, such as `text_cfg`.
    """
    merges = folder / "merges.txt.gz"
    merges.write_bytes(gzip.compress("\n".join(["#version", *MERGES]).encode()))
    size: dict[str, Any] = {"width": 32, "heads": 2, "layers": 2, "context_length": 40, "vocab_size": EOS + 1}
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
    pool = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 12}
    text = {"embed_cls": True, "output_tokens": True, "tokenizer_kwargs": {"bpe_path": str(merges)}}
    config: dict[str, Any] = {
        "embed_dim": 32,
        "vision_cfg": {**vision, **pool, "output_tokens": True},
        "text_cfg": {**size, **text},
        "multimodal_cfg": size,
        "custom_text": True,
    }
    for section, values in changes.items():
        config[section] = {**config[section], **values} if isinstance(values, dict) else values
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")


def write_checkpoint(folder: Path, golden: CocaGolden) -> str:
    """Let open_clip know the tiny model, and write its weights; returns what `mplug.load` takes."""
    register(folder)
    save_file(golden.weights, folder / "weights.safetensors")
    return f"open_clip:{NAME}:{folder / 'weights.safetensors'}"


# Any: open_clip's CoCa.
def random_weights(clip: Any, seed: int = 0) -> None:
    """Every parameter random, large enough that texts vary, and exact in float16."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            is_norm = ".ln_" in f".{name}" and name.endswith("weight")
            drawn = 0.35 * torch.randn(parameter.shape, generator=generator) + (1 if is_norm else 0)
            parameter.copy_(drawn.half())


# Any: its multimodal decoder.
def add_bonus(decoder: Any, bonus: dict[str, float]) -> None:
    """Make tokens likelier: the last norm's shift, which every state holds, is what the bonus comes in by."""
    with torch.no_grad():
        shift = decoder.ln_final.bias
        for name, value in bonus.items():
            decoder.text_projection[:, BONUSES[name]] += value * shift / shift.square().sum()
