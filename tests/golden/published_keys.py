"""Writes mplug/keys_published.txt: state dicts of the reference's classes at the published sizes, no weights needed.

Needs the reference, in an environment that has torch, timm and this project's other dependencies:

    pip install modelscope==1.40.2 transformers==4.57.6 addict simplejson sortedcontainers einops datasets oss2
    PYTHONPATH=mplug:tests python tests/golden/published_keys.py
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from golden.mplug_cases import GOLDEN, small_vocab
from mplug.checkpoints.published import PUBLISHED
from mplug.checkpoints.settings import ReferenceSettings

# What the reference builds of CLIP and never runs, and so is not in our settings (OpenAI's ViT-B/16 and ViT-L/14).
CLIP_TEXT = {
    "mplug-base": {"clip_embed_dim": 512, "clip_transformer_width": 512, "clip_transformer_heads": 8},
    "mplug-large": {"clip_embed_dim": 768, "clip_transformer_width": 768, "clip_transformer_heads": 12},
}
CLASSES = {"vqa": "MPlugForVisualQuestionAnswering", "retrieval": "MPlugForImageTextRetrieval"}
HEAD = """\
# State dicts of the reference's classes (modelscope 1.40.2, transformers 4.57.6) at the published sizes, built on the
# meta device: name, shape, type. The caption class holds the vqa class's entries without those whose first part ends
# in _m, in the same order.
"""


def state_dict(size: str, settings: ReferenceSettings, class_name: str) -> dict[str, torch.Tensor]:
    package = "modelscope.models.multi_modal.mplug"
    modeling: Any = importlib.import_module(f"{package}.modeling_mplug")
    configuration: Any = importlib.import_module(f"{package}.configuration_mplug")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config_bert.json").write_text(
            json.dumps({**settings.bert, "attention_probs_dropout_prob": 0.1, "add_cross_attention": False})
        )
        (Path(folder) / "vocab.txt").write_text("\n".join(small_vocab(130)) + "\n")
        config = configuration.MPlugConfig(
            **{**settings.yaml, **CLIP_TEXT[size], "distill": True, "momentum": 0.995}
        )
        config.model_dir = folder
        with torch.device("meta"):
            tensors: dict[str, torch.Tensor] = getattr(modeling, class_name)(config).state_dict()
    return tensors


def lists() -> Iterator[str]:
    for size, settings in PUBLISHED.items():
        for task, class_name in CLASSES.items():
            tensors = state_dict(size, settings, class_name)
            values = sum(tensor.numel() for tensor in tensors.values())
            title = f"{size.removeprefix('mplug-')} {task} ({class_name}, distill)"
            yield f"## {title}: {len(tensors)} entries, {values} values"
            for name, tensor in tensors.items():
                yield f"{name}\t{list(tensor.shape)}\t{str(tensor.dtype).removeprefix('torch.')}"
            yield ""


if __name__ == "__main__":
    (GOLDEN / "mplug" / "keys_published.txt").write_text(HEAD + "\n" + "\n".join(lists()))
