"""What the shipped mplug-mini makes of the gallery, kept so that a change of code that moves its vectors is seen.

An index made yesterday must answer today. After new weights:

    PYTHONPATH=tests python -m golden.mini_vectors
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mplug
from mplug.contrastive import ContrastiveModel
from mplug.text.tokenizer import pad
from mplug.train.features import View, view_pixels

GALLERY = Path(__file__).parents[2] / "examples" / "gallery"
FILE = Path(__file__).parent / "mini" / "vectors.safetensors"
EVERY = 4
"""Each fourth picture of the gallery."""


def gallery() -> list[dict[str, str]]:
    """The pictures whose vectors are kept: drawings, scenes and photos."""
    lines = (GALLERY / "gallery.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines][::EVERY]


def embed_pictures(model: ContrastiveModel, records: list[dict[str, str]]) -> Tensor:
    """Float32 (pictures, E)."""
    views = [View(record["image"], 0, flip=False) for record in records]
    pixels = [view_pixels(GALLERY, view, model.preprocess.image_size, 1.0) for view in views]
    with torch.inference_mode():
        return model.embed_images(torch.from_numpy(np.stack(pixels)))


def embed_texts(model: ContrastiveModel, texts: list[str]) -> Tensor:
    """Float32 (texts, E)."""
    ids, mask = pad(model.tokenizer.encode_batch(texts), model.tokenizer.pad_id)
    with torch.inference_mode():
        return model.embed_texts(torch.from_numpy(ids), torch.from_numpy(mask))


def vectors(model: ContrastiveModel) -> dict[str, Tensor]:
    """Pictures, and their labels in both languages."""
    records = gallery()
    return {
        "pictures": embed_pictures(model, records),
        "label": embed_texts(model, [record["label"] for record in records]),
        "label_zh": embed_texts(model, [record["label_zh"] for record in records]),
    }


def stored() -> dict[str, Tensor]:
    """The vectors, kept as float16."""
    return {name: tensor.float() for name, tensor in load_file(FILE).items()}


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    save_file({name: tensor.half() for name, tensor in vectors(mplug.load("mplug-mini")).items()}, FILE)
