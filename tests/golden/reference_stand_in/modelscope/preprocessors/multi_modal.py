"""The preprocessor's calls: the folder is read at first use, the task from `configuration.json` at each call."""

from __future__ import annotations

import json
from functools import cached_property
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mplug.checkpoints import modelscope as folders
from mplug.image_encoder import normalise
from mplug.images import decode_image
from mplug.preprocess import CLIP_MEAN, CLIP_STD, to_pixels
from mplug.text.tokenizer import WordPieceTokenizer

# What is there for other models alone, and not installed.
assert import_module("decord").VideoReader is None
assert import_module("modelscope.preprocessors.ofa.utils.collate").collate_fn is None

MAX_LENGTH = 25


class MPlugPreprocessor:
    def __init__(self, model_dir: str) -> None:
        self.model_dir = model_dir

    @cached_property
    def tokenizer(self) -> WordPieceTokenizer:
        return WordPieceTokenizer.from_file(Path(self.model_dir) / "vocab.txt", max_length=MAX_LENGTH)

    @cached_property
    def patch_resize_transform(self) -> int:
        return folders.read_settings(Path(self.model_dir)).image_size

    def __call__(self, data: tuple[str, str]) -> dict[str, Tensor | dict[str, Tensor]]:
        file, text = data
        configuration = json.loads((Path(self.model_dir) / "configuration.json").read_text())
        pixels = to_pixels(decode_image(Path(file).read_bytes()), self.patch_resize_transform)
        tokens = self.tokenizer.encode("" if configuration["task"] == "image-captioning" else text).ids
        ids = torch.from_numpy(np.pad(tokens, (0, MAX_LENGTH - len(tokens))))[None]
        return {
            "image": normalise(torch.from_numpy(pixels)[None], CLIP_MEAN, CLIP_STD),
            "question": {"input_ids": ids, "attention_mask": (ids != 0).long()},
        }
